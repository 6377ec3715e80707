"""What goes over the wire, one module a noun: the shape, and the row it is made from."""
