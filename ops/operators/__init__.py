"""The operators, each in its own file: the public function, the schema, and the fake and autograd functions."""
