"""The stride of the models' feature maps."""

STRIDE = 16  # pixels of a frame along the side of a cell of the features that are carried from frame to frame
