/* The routes of the public door; operations are named as in openapi/router.yaml. */
#include "services/router/router.h"

#include "common/base/limits.h"

#define SMALL_BODY KIB(64)

const struct route router_routes[] = {
    {"GET", "/", router_root, 0, "getRoot"},
    {"GET", "/openapi.json", router_openapi, 0, "getOpenapi"},
    {"GET", "/v1/collections", router_list_collections, 0, "listCollections"},
    {"GET", "/v1/collections/*", router_get_collection, 0, "getCollection"},
    {"PUT", "/v1/collections/*", router_change_collection, SMALL_BODY, "createCollection"},
    {"DELETE", "/v1/collections/*", router_change_collection, 0, "deleteCollection"},
    {"POST", "/v1/collections/*/records", router_forward, BODY_BYTES_MAX, "upsertRecords"},
    {"POST", "/v1/collections/*/records/get", router_get_records, BODY_BYTES_MAX, "getRecords"},
    {"POST", "/v1/collections/*/records/delete", router_forward, BODY_BYTES_MAX, "deleteRecords"},
    {"POST", "/v1/collections/*/records/update", router_forward, BODY_BYTES_MAX, "updateRecords"},
    {"POST", "/v1/collections/*/records/scroll", router_scroll, BODY_BYTES_MAX, "scrollRecords"},
    {"POST", "/v1/collections/*/records/count", router_count, BODY_BYTES_MAX, "countRecords"},
    {"GET", "/v1/collections/*/records/*", router_get_record, 0, "getRecord"},
    {"PUT", "/v1/collections/*/records/*", router_forward, BODY_BYTES_MAX, "putRecord"},
    {"PATCH", "/v1/collections/*/records/*", router_forward, MIB(1), "patchRecord"},
    {"DELETE", "/v1/collections/*/records/*", router_forward, 0, "deleteRecord"},
    {"POST", "/v1/collections/*/imports", router_forward, SMALL_BODY, "createImport"},
    {"GET", "/v1/collections/*/imports/*", router_forward, 0, "getImport"},
    {"PUT", "/v1/collections/*/imports/*/data", router_forward, BODY_BYTES_MAX, "putImportData"},
    {"POST", "/v1/collections/*/imports/*/cancel", router_forward, 0, "cancelImport"},
    {"POST", "/v1/collections/*/search", router_search, BODY_BYTES_MAX, "search"},
    {"POST", "/v1/collections/*/search/batch", router_search_batch, BODY_BYTES_MAX, "searchBatch"},
    {"GET", "/v1/admin/regions", router_get_regions, 0, "getRegions"},
    {"POST", "/v1/admin/regions/*/role", router_set_role, SMALL_BODY, "setRegionRole"},
    {"GET", "/internal/v1/status", router_status, 0, "getStatus"},
    {0},
};
