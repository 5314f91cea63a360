"""The blocks of an executor: how many there are to be (pure), and the thread that starts and ends them."""
