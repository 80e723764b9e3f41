"""Matrix products: the operations, their problem, and the engines that compute it."""
