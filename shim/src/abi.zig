export fn camem_dummy() c_int { return 0; }
