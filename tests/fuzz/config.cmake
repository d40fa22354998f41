everport_fuzz(config_fuzz SOURCES config_fuzz.cc DEPS everport_config)
