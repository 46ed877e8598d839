#include "shim.h"
#define SCALAR_BF16
#define KERNELS kernels_bf16
#define ENTRIES sana_host_entries_bf16
#include "table.h"
