// gantry system check: is what the database says on disk and in the kernel, and nothing else of ours?
// Each area looks at one kind of thing and says what is wrong; with `repair` it also mends what can be
// mended without losing anything a user may want. Things come and go while it looks, so that what looks
// stray is looked at twice before it is told.
#pragma once

#include <gantry/call.hpp>

#include <cstdint>
#include <functional>
#include <string>

namespace gantry {

class Containers;
class ContentStore;
class Db;
class Images;
class Layers;
class Networks;
class Runtime;
class Volumes;
struct EngineConfig;

struct Finding {
    enum class Level { kNotice, kProblem, kMended };
    Level level = Level::kProblem;
    std::string area, subject, text, hint;
};
using FindingSink = std::function<void(const Finding &)>;

struct CheckParts {
    Db *db;
    ContentStore *content;
    Layers *layers;
    Images *images;
    Networks *networks;
    Volumes *volumes;
    Containers *containers; // may be null: then nothing of it, and of the kernel, is looked at
    Runtime *runtime;
    const EngineConfig *config;
    std::string engine_id;
};

struct CheckOptions {
    bool deep = false; // read every file and blob
    bool repair = false;
};

struct CheckSummary {
    uint64_t problems = 0, mended = 0; // problems: those that remain
    uint64_t layers = 0, files = 0, bytes = 0, blobs = 0, images = 0, containers = 0, volumes = 0;
};

CheckSummary check_system(const CheckParts &parts, const CheckOptions &options, const FindingSink &sink,
                          const Call &call);

} // namespace gantry
