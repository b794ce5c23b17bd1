module smallfirst.dev/tests/standin

go 1.24
