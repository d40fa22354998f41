everport_fuzz(api_fuzz SOURCES api_fuzz.cc DEPS everport_api)
