#include "shim.h"
#define SCALAR_F32
#define KERNELS kernels_f32
#define ENTRIES sana_host_entries_f32
#include "table.h"
