"""Of each operator, in a file of its own: the public function, the schema, and the fake and autograd functions."""
