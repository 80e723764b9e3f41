"""Normalisations: softmax, layer norm, batch norm, group norm."""
