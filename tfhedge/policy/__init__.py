"""The recurrent policy: one time step, and all of them."""
