"""The contract of each kind of backend, as tests that anybody can run on a backend of their own."""
