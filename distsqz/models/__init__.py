"""The networks that are compared: SqueezeNet, AlexNet and anyone's own; their recipes and layer tables."""
