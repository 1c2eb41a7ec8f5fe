"""Data sets, each with a reader and a LightningDataModule; a batch is a dict of tensors."""
