"""Published weights, read without the framework that wrote them."""
