"""Build, check and publish the image and clip sequences: `python -m dataset_scripts.<script> --help`."""
