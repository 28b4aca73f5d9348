// What the routes speak to: borrowed pointers to the engine's parts, all of which outlive the server.
#pragma once

#include "core/api/router.h"
#include "core/config/config.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace gantry {
class Containers;
class ContentStore;
class Db;
class Events;
class Images;
class Layers;
class Networks;
class PluginHost;
class Runtime;
class Volumes;
} // namespace gantry

namespace gantry::api {

class Gate;

struct Engine {
    std::shared_ptr<const EngineSettings> settings;
    PluginHost *plugins = nullptr;
    Containers *containers = nullptr;
    Images *images = nullptr;
    Layers *layers = nullptr;
    Networks *networks = nullptr;
    Volumes *volumes = nullptr;
    Events *events = nullptr;
    Runtime *runtime = nullptr;
    std::string id; // engine_id
    int64_t started_ns = 0;
    Db *db = nullptr;
    ContentStore *content = nullptr;
    Gate *gate = nullptr;          // null in tests that have no use for it
    std::function<void()> restart; // ends this process in favour of a new one, after the present answers
};

/// Every route over `engine`, which is borrowed.
std::shared_ptr<const Router> make_router(const Engine &engine);

void add_info_routes(Router &router, const Engine &engine);
void add_system_routes(Router &router, const Engine &engine);
void add_container_routes(Router &router, const Engine &engine);
void add_container_stream_routes(Router &router, const Engine &engine);
void add_archive_routes(Router &router, const Engine &engine);
void add_exec_routes(Router &router, const Engine &engine);
void add_image_routes(Router &router, const Engine &engine);
void add_image_archive_routes(Router &router, const Engine &engine);
void add_network_volume_routes(Router &router, const Engine &engine);
void add_migrate_routes(Router &router, const Engine &engine);
void add_check_routes(Router &router, const Engine &engine);
void add_mirror_routes(Router &router, const Engine &engine);
void add_gantry_routes(Router &router, const Engine &engine);
/// What this version does not do yet, with a sentence instead of "page not found".
void add_refusals(Router &router);

} // namespace gantry::api
