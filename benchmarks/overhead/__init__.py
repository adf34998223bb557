"""What measuring and Ray cost a step."""
