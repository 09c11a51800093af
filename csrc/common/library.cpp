// The mark by which the Python side knows, before it loads this library, that both mean the same schemas.
#ifndef FASTADV_SCHEMAS
#error "setup.py defines FASTADV_SCHEMAS as the hash of the schemas"
#endif

extern "C" __attribute__((used, visibility("default"))) const char fastadv_schemas[] =
    "fastadv-schemas:" FASTADV_SCHEMAS;
