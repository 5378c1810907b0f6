"""Pre-train the tiny backbones in the manner of LLaVA's stage 1: a vision tower, then projector and language model."""
