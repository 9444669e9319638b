"""The field's numbers: metrics as pure functions, files of predictions, a runner."""
