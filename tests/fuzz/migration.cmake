everport_fuzz(contract_fuzz SOURCES contract_fuzz.cc DEPS everport_migration)
