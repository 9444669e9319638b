"""The mini base from scratch, part by part: what stands in for EVA-CLIP, InstructBLIP, Video-LLaMA and LLaMA."""
