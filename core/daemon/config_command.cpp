// `gantry config ...` executes gantryd with hidden arguments and ends up here: the client stays small
// enough to start in a millisecond, and there is one reader of the configuration only.
#include "core/daemon/config_command.h"

#include "core/base/files.h"
#include "core/config/config.h"
#include "core/image/trust.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstdio>

namespace gantry {
namespace {

constexpr const char *kDefaultConfig = "/etc/gantry/gantry.toml";

struct Request {
    std::string verb, file, config;
    bool origin = false;
};

Request parse(const std::vector<std::string> &args) {
    Request request;
    for (size_t i = 0; i < args.size(); ++i) {
        if (i == 0) {
            request.verb = args[i];
        } else if (args[i] == "--origin") {
            request.origin = true;
        } else if (args[i] == "--config") {
            if (++i == args.size())
                throw Error(ErrorClass::kInvalidArgument, "read arguments: --config needs a file");
            request.config = args[i];
        } else if (request.file.empty()) {
            request.file = args[i];
        } else {
            throw Error(ErrorClass::kInvalidArgument, "read arguments: one file is expected");
        }
    }
    return request;
}

std::string origin_text(const Origin &origin) {
    if (origin.line == 0) return origin.source;
    return origin.source + ":" + std::to_string(origin.line) + ":" + std::to_string(origin.column);
}

void show(const std::vector<ShownOption> &options, bool with_origin) {
    size_t width = 0;
    for (const ShownOption &option : options)
        width = std::max(width, option.key.size() + 3 + option.value.size());
    width = std::min<size_t>(width, 60);
    for (const ShownOption &option : options) {
        std::string line = option.key + " = " + option.value;
        if (with_origin) {
            line.append(line.size() < width ? width - line.size() : 0, ' ');
            line += "  # " + origin_text(option.origin);
        }
        puts(line.c_str());
    }
}

int run(const Request &request) {
    if (request.verb == "import-docker") {
        if (request.file.empty())
            throw Error(ErrorClass::kInvalidArgument, "import Docker's configuration: a file is needed");
        fputs(import_docker_config(read_file(request.file), request.file).c_str(), stdout);
        return 0;
    }
    std::string named = request.config.empty() ? request.file : request.config;
    EngineSettings::Sources sources{
        .file = named.empty() ? kDefaultConfig : named, .file_optional = named.empty(), .flags = {}};
    auto settings = EngineSettings::load(sources);
    PluginHost plugins(*settings, nullptr);
    if (request.verb == "docs") {
        fputs(config_docs(plugins.schemas()).c_str(), stdout);
        return 0;
    }
    const std::vector<std::string> notices = settings->validate(plugins.schemas());
    if (request.verb == "check") {
        for (const std::string &notice : notices)
            fprintf(stderr, "notice: %s\n", notice.c_str());
        const TrustPolicy readable(settings->trust()); // keys that are missing or no keys
        puts("configuration ok");
        return 0;
    }
    if (request.verb == "show") {
        show(settings->show(plugins.schemas()), request.origin);
        return 0;
    }
    throw Error(ErrorClass::kInvalidArgument, "run config command: unknown verb \"" + request.verb + "\"",
                "use check, show, docs or import-docker");
}

} // namespace

int run_config_command(const std::vector<std::string> &args) {
    try {
        return run(parse(args));
    } catch (const Error &error) {
        fprintf(stderr, "%s\n", error.message().c_str());
        if (!error.hint().empty()) fprintf(stderr, "hint: %s\n", error.hint().c_str());
    } catch (const std::exception &error) {
        fprintf(stderr, "internal error: %s\n", error.what());
    }
    return 1;
}

} // namespace gantry
