"""What a trained network says of every image of the pool."""
