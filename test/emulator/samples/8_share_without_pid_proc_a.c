/* After the vendor's memory sample 8, the exporter: physical memory shared with whoever knows the handle. */
#include "sharing.h"

int main(void) { return sharing_export(false); }
