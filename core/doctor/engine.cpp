// The engine's part: configuration, plugins, helper programs and whether an engine answers already.
#include "core/base/fd.h"
#include "core/base/files.h"
#include "core/config/config.h"
#include "core/doctor/doctor.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <cstring>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace gantry::doctor {

namespace {

constexpr const char *kDefaultConfig = "/etc/gantry/gantry.toml";

const char *kind_word(gantry_kind kind) {
    return kind == GANTRY_KIND_STORAGE ? "storage" : kind == GANTRY_KIND_NETWORK ? "network" : "registry";
}

Finding failure(const char *area, std::string subject, const Error &error) {
    return {area, std::move(subject), Verdict::kError, error.message(), error.hint()};
}

void plugins_found(const PluginHost &host, Findings &out) {
    const std::vector<PluginInfo> list = host.list();
    for (const PluginInfo &plugin : list) {
        const std::string file = plugin.file.substr(plugin.file.rfind('/') + 1);
        const std::string subject =
            plugin.name.empty() || plugin.state == PluginState::kFailed // its kind may never have been known
                ? file
                : std::string(kind_word(plugin.kind)) + " " + plugin.name;
        switch (plugin.state) {
        case PluginState::kOk:
        case PluginState::kAvailable:
            out.push_back({"plugins", subject, Verdict::kOk, plugin.version + ", " + file, ""});
            break;
        case PluginState::kSkipped:
            out.push_back({"plugins", subject, Verdict::kNotice, "skipped: " + plugin.reason, ""});
            break;
        case PluginState::kFailed:
            out.push_back({"plugins", subject, Verdict::kWarning, "failed: " + plugin.reason,
                           "mend or remove " + plugin.file});
            break;
        }
    }
}

/// Is there anything that can play the part which the configuration names?
void drivers_chosen(const PluginHost &host, const EngineSettings &settings, Findings &out) {
    auto usable = [&](gantry_kind kind, const std::string &name) {
        for (const PluginInfo &plugin : host.list())
            if (plugin.kind == kind && plugin.name == name &&
                (plugin.state == PluginState::kOk || plugin.state == PluginState::kAvailable))
                return true;
        return false;
    };
    auto judge = [&](gantry_kind kind, const std::string &wanted, const std::vector<std::string> &prefer) {
        std::string chosen;
        if (wanted != "auto") {
            if (usable(kind, wanted)) chosen = wanted;
        } else {
            for (const std::string &name : prefer)
                if (chosen.empty() && usable(kind, name)) chosen = name;
        }
        const std::string word = kind_word(kind);
        out.push_back(
            {"plugins", word + " driver", chosen.empty() ? Verdict::kError : Verdict::kOk,
             chosen.empty()
                 ? word + ".driver = \"" + wanted + "\": no usable plugin offers it"
                 : word + ".driver = \"" + wanted + "\"" + (wanted == "auto" ? ": takes " + chosen : ""),
             chosen.empty() ? missing_driver_hint(kind, wanted == "auto" ? "overlay" : wanted) : ""});
    };
    judge(GANTRY_KIND_STORAGE, settings.storage().driver, settings.storage().prefer);
    judge(GANTRY_KIND_NETWORK, settings.network().driver, {});
    for (const std::string &name : settings.registry().drivers)
        judge(GANTRY_KIND_REGISTRY, name, {});
}

std::string value_of(const std::vector<ShownOption> &options, const std::string &key) {
    for (const ShownOption &option : options)
        if (option.key == key) {
            std::string value = option.value;
            if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
            return value;
        }
    return "";
}

void programs(const EngineConfig &config, Findings &out) {
    char self[4096];
    const ssize_t size = readlink("/proc/self/exe", self, sizeof self);
    std::string path(self, size > 0 ? size_t(size) : 0);
    path.resize(path.rfind('/'));
    if (path.ends_with("/bin")) path.resize(path.size() - 4);
    const std::string libexec = config.libexec.empty() ? path + "/lib/gantry" : config.libexec;
    const std::string shim = config.shim.empty() ? libexec + "/gantry-shim" : config.shim;
    const bool there = access(shim.c_str(), X_OK) == 0;
    out.push_back({"engine", "gantry-shim", there ? Verdict::kOk : Verdict::kError,
                   there ? shim : shim + ": " + strerror(errno),
                   there ? "" : "reinstall gantry, or set engine.shim"});
    for (const auto &[name, file] : config.runtimes) {
        bool found = file.find('/') != file.npos && access(file.c_str(), X_OK) == 0;
        if (file.find('/') == file.npos)
            for (const char *folder : {"/usr/sbin/", "/usr/bin/", "/usr/local/bin/", "/usr/local/sbin/"})
                found = found || access((folder + file).c_str(), X_OK) == 0;
        const bool is_default = name == config.default_runtime;
        out.push_back({"engine", "runtime " + name,
                       found        ? Verdict::kOk
                       : is_default ? Verdict::kError
                                    : Verdict::kNotice,
                       found ? file : file + " is not installed: --runtime " + name + " will be refused",
                       found ? "" : "install it, or change engine.runtimes"});
    }
}

void socket_answers(const EngineConfig &config, Findings &out) {
    const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (config.socket.size() >= sizeof address.sun_path) {
        out.push_back({"engine", "socket", Verdict::kError, config.socket + ": longer than 107 bytes",
                       "set engine.socket to a shorter path"});
        return;
    }
    memcpy(address.sun_path, config.socket.c_str(), config.socket.size());
    if (connect(client.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0)
        out.push_back({"engine", "socket", Verdict::kOk, config.socket + " answers", ""});
    else
        out.push_back({"engine", "socket", Verdict::kNotice, config.socket + ": " + strerror(errno),
                       errno == EACCES ? "run as root, or set engine.socket_group"
                                       : "no engine runs; gantry starts one when it needs it"});
}

} // namespace

EngineFacts examine_engine(const std::string &config_file, Findings &out) {
    EngineFacts facts;
    const std::string named = config_file.empty() ? kDefaultConfig : config_file;
    std::shared_ptr<const EngineSettings> settings;
    try {
        settings = EngineSettings::load({.file = named, .file_optional = config_file.empty(), .flags = {}});
    } catch (const Error &error) {
        out.push_back(failure("configuration", named, error));
        return facts;
    }
    const EngineConfig &config = settings->engine();
    facts.root = config.root;
    facts.cgroup_parent = config.cgroup_parent;
    try {
        const PluginHost host(*settings, nullptr);
        plugins_found(host, out);
        drivers_chosen(host, *settings, out);
        try {
            settings->validate(host.schemas());
            out.push_back({"configuration", named, Verdict::kOk,
                           path_exists(named) ? "valid" : "absent: every option has its default", ""});
            const std::vector<ShownOption> options = settings->show(host.schemas());
            facts.network.bridge = value_of(options, "network.bridge.name");
            if (const std::string subnet = value_of(options, "network.bridge.subnet"); !subnet.empty())
                facts.network.subnets.push_back(subnet);
        } catch (const Error &error) {
            out.push_back(failure("configuration", named, error));
        }
    } catch (const Error &error) {
        out.push_back(failure("plugins", "directories", error));
    }
    programs(config, out);
    socket_answers(config, out);
    return facts;
}

} // namespace gantry::doctor
