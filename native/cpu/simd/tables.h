// The names under which the sources of this folder define their tables, one of each per instruction set.
#pragma once

#define MOE_PASTE(name, isa) name##_##isa
#define MOE_EXPAND(name, isa) MOE_PASTE(name, isa)

/// name_avx2 and so on, for the instruction set that is being compiled.
#define MOE_TABLE(name) MOE_EXPAND(name, MOE_ISA)
