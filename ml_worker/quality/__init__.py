"""How good the labels are: arrays in, arrays out."""
