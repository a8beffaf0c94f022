"""Networks by name: torchvision's with width, depth and small stems, and timm's; the arguments they take."""
