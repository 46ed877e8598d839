#include "shim.h"
#define SCALAR_F16
#define KERNELS kernels_f16
#define ENTRIES sana_host_entries_f16
#include "table.h"
