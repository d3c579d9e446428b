"""One file per gate, each test parametrized over the packs' cases. In a wheel this folder is `h2o_gate_plugin.acceptance`."""
