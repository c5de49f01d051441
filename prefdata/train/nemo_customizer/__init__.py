"""`prefdata train --backend nemo_customizer`."""
