"""Is a file what its latents decode to? Read back by other libraries, none of it through the code that wrote it."""
