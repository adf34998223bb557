"""What channels_last and bf16 save."""
