"""Convolutions: conv2d, its problem and the engines that compute it, and two first layers: a ResNet's and a ViT's."""
