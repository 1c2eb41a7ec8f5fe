"""Prompts, StereoSet and plain text, one LightningDataModule each; a batch is a dict of tensors."""
