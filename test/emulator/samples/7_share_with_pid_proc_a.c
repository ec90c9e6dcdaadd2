/* After the vendor's memory sample 7, the exporter: physical memory shared with the one process that it names. */
#include "sharing.h"

int main(void) { return sharing_export(true); }
