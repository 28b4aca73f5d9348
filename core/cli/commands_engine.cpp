// Commands on the engine itself: version, info, events, plugins, configuration.
//
// `config` must work without a daemon and needs the plugins' schemas; linking all that would make every
// other command slower to start, so gantryd does it in a hidden mode and its output is passed through.
#include "core/cli/command.h"
#include "core/cli/daemon_start.h"
#include "core/cli/format.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <climits>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

int version_command(Invocation &invocation) {
    json::object client {
        {"Version", GANTRY_VERSION}, {"ApiVersion", "1.47"}, {"DefaultAPIVersion", "1.47"}, {"Os", "linux"},
#if defined(__x86_64__)
            {"Arch", "amd64"}
#elif defined(__aarch64__)
            {"Arch", "arm64"}
#else
        {
            "Arch", "unknown"
        }
#endif
    };
    json::value server;
    std::string failure;
    try {
        server = invocation.client.get("/version");
    } catch (const ApiError &error) {
        failure = "Error response from daemon: " + std::string(error.what());
    } catch (const Error &error) {
        failure = error.message();
    }
    if (std::string format = invocation.flags.get("format"); !format.empty()) {
        print_format(json::object{{"Client", client}, {"Server", server}}, format);
    } else {
        std::string text = "Client: gantry\n Version:           " GANTRY_VERSION
                           "\n API version:       1.47\n OS/Arch:           linux/" +
                           text_at(client, "Arch") + "\n";
        if (failure.empty()) {
            text += "\nServer: " + text_at(at(server, "Platform"), "Name") + "\n Engine:\n";
            text += "  Version:          " + text_at(server, "Version") + "\n";
            text += "  API version:      " + text_at(server, "ApiVersion") + " (minimum version " +
                    text_at(server, "MinAPIVersion") + ")\n";
            if (std::string commit = text_at(server, "GitCommit"); !commit.empty())
                text += "  Git commit:       " + commit + "\n";
            if (std::string built = text_at(server, "BuildTime"); !built.empty())
                text += "  Built:            " + built + "\n";
            text += "  OS/Arch:          " + text_at(server, "Os") + "/" + text_at(server, "Arch") + "\n";
            text += "  Kernel version:   " + text_at(server, "KernelVersion") + "\n";
            for (const json::value &component : array_of(at(server, "Components")))
                if (text_at(component, "Name") != "Engine")
                    text += " " + text_at(component, "Name") +
                            ":\n  Version:          " + text_at(component, "Version") + "\n";
        }
        write_all(1, text, "standard output");
    }
    if (!failure.empty()) throw ExitWith(1, failure);
    return 0;
}

int info_command(Invocation &invocation) {
    json::value info = invocation.client.get("/info");
    if (std::string format = invocation.flags.get("format"); !format.empty())
        return print_format(info, format);
    std::string text = "Client:\n Version:    " GANTRY_VERSION "\n\nServer:\n";
    auto line = [&](const char *label, const std::string &value) {
        if (!value.empty()) text += std::string(label) + ": " + value + "\n";
    };
    auto number = [&](const char *key) { return std::to_string(number_at(info, key)); };
    line(" Containers", number("Containers"));
    line("  Running", number("ContainersRunning"));
    line("  Paused", number("ContainersPaused"));
    line("  Stopped", number("ContainersStopped"));
    line(" Images", number("Images"));
    line(" Server Version", text_at(info, "ServerVersion"));
    line(" Storage Driver", text_at(info, "Driver"));
    for (const json::value &pair : array_of(at(info, "DriverStatus")))
        if (array_of(pair).size() == 2)
            text += "  " + format_value(array_of(pair)[0]) + ": " + format_value(array_of(pair)[1]) + "\n";
    line(" Logging Driver", text_at(info, "LoggingDriver"));
    line(" Cgroup Driver", text_at(info, "CgroupDriver"));
    line(" Cgroup Version", text_at(info, "CgroupVersion"));
    text += " Plugins:\n";
    for (auto [key, label] : {std::pair{"Volume", "  Volume:"},
                              {"Network", "  Network:"},
                              {"Registry", "  Registry:"},
                              {"Log", "  Log:"}}) {
        std::string names;
        for (const json::value &name : array_of(at(at(info, "Plugins"), key)))
            names += " " + format_value(name);
        if (!names.empty()) text += label + names + "\n";
    }
    std::string runtimes;
    if (const json::value &map = at(info, "Runtimes"); map.is_object())
        for (const auto &pair : map.get_object())
            runtimes += (runtimes.empty() ? "" : " ") + std::string(pair.key());
    line(" Runtimes", runtimes);
    line(" Default Runtime", text_at(info, "DefaultRuntime"));
    line(" Init Binary", text_at(info, "InitBinary"));
    if (!array_of(at(info, "SecurityOptions")).empty()) {
        text += " Security Options:\n";
        for (const json::value &option : array_of(at(info, "SecurityOptions"))) {
            std::string shown = format_value(option);
            text += "  " + (shown.starts_with("name=") ? shown.substr(5) : shown) + "\n";
        }
    }
    line(" Kernel Version", text_at(info, "KernelVersion"));
    line(" Operating System", text_at(info, "OperatingSystem"));
    line(" OSType", text_at(info, "OSType"));
    line(" Architecture", text_at(info, "Architecture"));
    line(" CPUs", number("NCPU"));
    char memory[32];
    snprintf(memory, sizeof memory, "%.4gGiB", static_cast<double>(number_at(info, "MemTotal")) / (1 << 30));
    line(" Total Memory", memory);
    line(" Name", text_at(info, "Name"));
    line(" ID", text_at(info, "ID"));
    line(" Gantry Root Dir", text_at(info, "DockerRootDir"));
    line(" Registry", text_at(info, "IndexServerAddress"));
    line(" Live Restore Enabled", bool_at(info, "LiveRestoreEnabled") ? "true" : "false");
    write_all(1, text, "standard output");
    for (const json::value &warning : array_of(at(info, "Warnings")))
        print_error(format_value(warning));
    return 0;
}

std::string event_line(const json::value &event) {
    const json::value &actor = at(event, "Actor");
    int64_t nanos = number_at(event, "timeNano");
    if (nanos == 0) nanos = number_at(event, "time") * 1000000000;
    time_t seconds = nanos / 1000000000;
    tm parts{};
    localtime_r(&seconds, &parts);
    char stamp[64], zone[8];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
    strftime(zone, sizeof zone, "%z", &parts);
    char text[128];
    snprintf(text, sizeof text, "%s.%09lld%.3s:%s", stamp, static_cast<long long>(nanos % 1000000000), zone,
             zone + 3);
    std::string line = std::string(text) + " " + text_at(event, "Type") + " " + text_at(event, "Action") +
                       " " + text_at(actor, "ID");
    std::string attributes;
    if (const json::value &map = at(actor, "Attributes"); map.is_object()) {
        std::vector<std::string> pairs;
        for (const auto &pair : map.get_object())
            pairs.push_back(std::string(pair.key()) + "=" + format_value(pair.value()));
        std::sort(pairs.begin(), pairs.end());
        for (const std::string &pair : pairs)
            attributes += (attributes.empty() ? "" : ", ") + pair;
    }
    return printable(attributes.empty() ? line : line + " (" + attributes + ")");
}

int events_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    std::string path = "/events?" + filter_query(flags);
    for (const char *flag : {"since", "until"})
        if (flags.has(flag))
            path += std::string("&") + flag + "=" + url_encode(to_timestamp(flags.get(flag), time(nullptr)));
    std::string format = flags.get("format");
    if (format == "json") format = "{{json .}}";
    Template compiled(format);
    HttpConnection stream = invocation.client.open_stream({.target = path});
    std::string line;
    while (stream.read_line(line)) {
        boost::system::error_code error;
        json::value event = json::parse(line, error);
        if (!error) print_line(format.empty() ? event_line(event) : compiled.execute(event));
    }
    return 0;
}

int plugin_ls(Invocation &invocation) {
    json::value list = snake_keys(invocation.client.get("/gantry/v1/plugins"));
    std::vector<json::object> rows;
    for (const json::value &plugin : array_of(list)) {
        std::string file = text_at(plugin, "file"), state = text_at(plugin, "state"),
                    reason = text_at(plugin, "reason");
        if (bool_at(plugin, "in_use")) {
            state += " (in use";
            if (text_at(plugin, "isolation") == "process") {
                state += ", process " + format_value(at(plugin, "pid"));
                if (const std::string n = format_value(at(plugin, "restarts")); n != "0")
                    state += ", restarted " + n + (n == "1" ? " time" : " times");
            }
            state += ")";
        }
        if (!reason.empty()) state += ": " + reason;
        const json::value &abi = at(plugin, "abi");
        rows.push_back(
            {{"Name", text_at(plugin, "name")},
             {"Kind", text_at(plugin, "kind")},
             {"Version", text_at(plugin, "version")},
             {"ABI", abi.is_null() ? "" : format_value(abi)},
             {"State", state},
             {"Isolation", text_at(plugin, "isolation")},
             {"File", invocation.flags.is_set("no-trunc") ? file : file.substr(file.rfind('/') + 1)},
             {"Description", text_at(plugin, "description")}});
    }
    static const json::object kHeaders{{"Name", "NAME"},       {"Kind", "KIND"},
                                       {"Version", "VERSION"}, {"ABI", "ABI"},
                                       {"State", "STATE"},     {"Isolation", "ISOLATION"},
                                       {"File", "FILE"},       {"Description", "DESCRIPTION"}};
    print_list(rows, {"{{.Kind}}\t{{.Name}}\t{{.Version}}\t{{.ABI}}\t{{.File}}\t{{.State}}", kHeaders},
               invocation.flags.get("format"));
    return 0;
}

// The element of a list or map has no name of its own: it shows as `hosts.*` or `mirrors[]`.
void show_options(const json::value &options, const std::string &prefix, std::string &text) {
    for (const json::value &option : array_of(options)) {
        const std::string type = text_at(option, "type"), path = prefix + text_at(option, "name");
        const std::string fallback = text_at(option, "default");
        text += "  " + path + " (" + type + (fallback.empty() ? "" : ", default " + fallback) + ")\n";
        if (std::string doc = text_at(option, "doc"); !doc.empty()) text += "      " + doc + "\n";
        const std::string inner = path + (type == "list" ? "[]" : type == "map" ? ".*" : ".");
        show_options(at(option, "children"), inner, text);
    }
}

int plugin_inspect(Invocation &invocation) {
    const std::string &wanted = invocation.args[0];
    json::value found;
    if (wanted.find('/') != std::string::npos || ::access(wanted.c_str(), F_OK) == 0) {
        char resolved[PATH_MAX]; // the daemon has another working directory
        if (!realpath(wanted.c_str(), resolved)) throw Error::from_errno(errno, "inspect plugin " + wanted);
        found = snake_keys(invocation.client.get("/gantry/v1/plugins/inspect?file=" + url_encode(resolved)));
    } else {
        json::value list = snake_keys(invocation.client.get("/gantry/v1/plugins"));
        for (const json::value &plugin : array_of(list)) {
            std::string file = text_at(plugin, "file");
            if (text_at(plugin, "name") == wanted || file.substr(file.rfind('/') + 1) == wanted)
                found = plugin;
        }
        if (found.is_null())
            throw ExitWith(1, "Error: No such plugin: " + wanted + " (see: gantry plugin ls)");
    }
    if (found.is_array() && !found.get_array().empty()) found = json::value(found.get_array()[0]);
    if (std::string format = invocation.flags.get("format"); !format.empty())
        return print_format(found, format);
    std::string text, abilities;
    for (const json::value &ability : array_of(at(found, "abilities")))
        abilities += (abilities.empty() ? "" : ", ") + format_value(ability);
    for (auto [label, key] : {std::pair{"Name:        ", "name"},
                              {"Kind:        ", "kind"},
                              {"Version:     ", "version"},
                              {"ABI:         ", "abi"},
                              {"File:        ", "file"},
                              {"State:       ", "state"},
                              {"Reason:      ", "reason"},
                              {"Isolation:   ", "isolation"},
                              {"Description: ", "description"},
                              {"Homepage:    ", "homepage"}}) {
        const json::value &value = at(found, key);
        if (!value.is_null() && format_value(value) != "")
            text += label + printable(format_value(value)) + "\n";
    }
    text += std::string("In use:      ") + (bool_at(found, "in_use") ? "yes" : "no") + "\n";
    if (!abilities.empty()) text += "Abilities:   " + printable(abilities) + "\n";
    if (!array_of(at(found, "options")).empty()) {
        text += "Options of [" + text_at(found, "kind") + "." + text_at(found, "name") + "]:\n";
        show_options(at(found, "options"), "", text);
    }
    write_all(1, text, "standard output");
    return 0;
}

/// Becomes another program of the project; `hint` says how to get it.
[[noreturn]] void become(const std::string &program, std::vector<std::string> words, const char *hint) {
    const std::string binary = find_program(program);
    if (binary.empty())
        throw Error(ErrorClass::kNotFound,
                    "find " + program + ": it is neither beside this program nor in /usr/bin", hint);
    words.insert(words.begin(), program);
    std::vector<char *> argv;
    for (std::string &word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(binary.c_str(), argv.data());
    throw Error::from_errno(errno, "run " + binary);
}

[[noreturn]] void become_daemon(std::vector<std::string> words) {
    become("gantryd", std::move(words), "install gantry");
}

int exec_daemon(const char *verb, Invocation &invocation) {
    std::vector<std::string> words{"--config-command", verb};
    if (invocation.flags.has("config"))
        words.insert(words.end(), {"--config", invocation.flags.get("config")});
    if (invocation.flags.is_set("origin")) words.push_back("--origin");
    words.insert(words.end(), invocation.args.begin(), invocation.args.end());
    become_daemon(std::move(words));
}

int doctor_command(Invocation &invocation) {
    std::vector<std::string> words{"--doctor"};
    for (const char *flag : {"config", "format"})
        if (invocation.flags.has(flag))
            words.insert(words.end(), {std::string("--") + flag, invocation.flags.get(flag)});
    become_daemon(std::move(words));
}

/// The kit comes with the SDK: a machine that only runs containers does without.
int plugin_check(Invocation &invocation) {
    std::vector<std::string> words;
    for (const char *flag : {"junit", "reference", "filter", "dir"})
        if (invocation.flags.has(flag))
            words.insert(words.end(), {std::string("--") + flag, invocation.flags.get(flag)});
    for (const char *flag : {"list", "verbose"})
        if (invocation.flags.is_set(flag)) words.push_back(std::string("--") + flag);
    for (const std::string &option : invocation.flags.list("option"))
        words.insert(words.end(), {"--option", option});
    words.insert(words.end(), {"--", invocation.args[0]});
    become("gantry-plugin-check", std::move(words), "install gantry-sdk");
}

int config_check(Invocation &invocation) { return exec_daemon("check", invocation); }
int config_show(Invocation &invocation) { return exec_daemon("show", invocation); }
int config_docs_command(Invocation &invocation) { return exec_daemon("docs", invocation); }
int config_import(Invocation &invocation) { return exec_daemon("import-docker", invocation); }

/// The engine moves its layers and restarts on the new driver: done when it answers with that one.
int migrate_command(Invocation &invocation) {
    const std::string to = invocation.flags.get("storage");
    if (to.empty())
        throw Error(ErrorClass::kInvalidArgument, "move storage: --storage NAME is needed",
                    "gantry plugin ls shows the drivers");
    follow_progress(invocation.client, "/gantry/v1/system/migrate?storage=" + url_encode(to),
                    invocation.flags.is_set("quiet"), 1);
    Endpoint endpoint = invocation.client.endpoint();
    endpoint.is_default = false; // it comes back by itself; nobody starts a second one
    for (int attempt = 0; attempt < 600; ++attempt) {
        try {
            Client client(endpoint);
            if (text_at(client.get("/info"), "Driver") == to) return 0;
        } catch (const std::exception &) {
            // on its way
        }
        usleep(50'000);
    }
    throw ExitWith(1, "The layers were moved, but the engine has not come back within 30 s: see its log.");
}

std::string plural(const boost::json::value &summary, const char *what) {
    return format_value(at(summary, what)) + " " + what;
}

/// What is found is printed as it is found; exit code 1 when something is wrong and stays so.
int check_command(Invocation &invocation) {
    const std::string format = invocation.flags.get("format");
    if (!format.empty() && format != "text" && format != "json")
        throw Error(ErrorClass::kInvalidArgument, "check engine: --format is text or json");
    std::string path =
        "/gantry/v1/system/check?deep=" + std::string(invocation.flags.is_set("deep") ? "1" : "0");
    path += invocation.flags.is_set("repair") ? "&repair=1" : "&repair=0";
    HttpConnection stream = invocation.client.open_stream({.method = "POST", .target = path});
    std::string line;
    bool done = false, clean = false;
    while (stream.read_line(line)) {
        boost::system::error_code error;
        const json::value event = json::parse(line, error);
        if (error) continue;
        const json::value summary = at(event, "summary");
        if (!summary.is_null()) {
            done = true;
            clean = format_value(at(summary, "problems")) == "0";
        }
        if (format == "json") {
            print_line(line.substr(0, line.find_last_not_of("\r\n") + 1));
            continue;
        }
        if (const std::string message = text_at(event, "error"); !message.empty()) throw ExitWith(1, message);
        if (summary.is_null()) {
            print_line(printable(text_at(event, "level") + "  " + text_at(event, "area") + "  " +
                                 text_at(event, "subject") + "  " + text_at(event, "message")));
            if (const std::string hint = text_at(event, "hint"); !hint.empty())
                print_line(printable("         " + hint));
            continue;
        }
        std::string text =
            plural(summary, "problems") + ", " + format_value(at(summary, "mended")) + " mended in";
        for (const char *what : {"images", "layers", "blobs", "containers", "volumes"})
            text += (text.ends_with("in") ? " " : ", ") + plural(summary, what);
        if (invocation.flags.is_set("deep"))
            text += "; " + plural(summary, "files") + " and " + plural(summary, "bytes") + " were read";
        print_line(text);
    }
    if (!done) throw ExitWith(1, "The check did not end: the engine went away. See its log.");
    return clean ? 0 : 1;
}

constexpr Flag kCheckFlags[] = {
    {"deep", 0, kBool, "Read every file of every layer and every blob"},
    {"format", 'f', kString, "text, or json: one object a line"},
    {"repair", 0, kBool, "Mend what can be mended; other requests that change something wait or get 503"}};
constexpr Flag kMigrateFlags[] = {
    {"quiet", 'q', kBool, "Do not show progress"},
    {"storage", 0, kString, "Storage driver to move all images and containers to"}};
constexpr Flag kFormatFlags[] = {{"format", 'f', kString, "Format output using a Go template or 'json'"}};
constexpr Flag kEventsFlags[] = {
    {"filter", 'f', kList, "Filter output based on conditions provided", "filter"},
    {"format", 0, kString, "Format output using a Go template or 'json'"},
    {"since", 0, kString, "Show all events created since timestamp"},
    {"until", 0, kString, "Stream events until this timestamp"}};
constexpr Flag kPluginLsFlags[] = {
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"no-trunc", 0, kBool, "Show whole paths"}};
constexpr Flag kPluginCheckFlags[] = {
    {"option", 'o', kList, "Option of the driver's table in gantry.toml", "KEY=VALUE"},
    {"reference", 0, kString, "An image that a registry driver can reach"},
    {"filter", 'f', kString, "Only cases whose name contains this"},
    {"junit", 0, kString, "Write the report as JUnit XML to this file", "FILE"},
    {"dir", 0, kString, "The file system that the driver is judged on (default /tmp)"},
    {"list", 0, kBool, "Names and promises of the cases"},
    {"verbose", 'v', kBool, "Show what the plugin logs and prints"}};
constexpr Flag kConfigFlags[] = {
    {"config", 0, kString, "Configuration file (default /etc/gantry/gantry.toml)"}};
constexpr Flag kDoctorFlags[] = {
    {"config", 0, kString, "Configuration file (default /etc/gantry/gantry.toml)"},
    {"format", 0, kString, "text or json"}};
constexpr Flag kConfigShowFlags[] = {
    {"config", 0, kString, "Configuration file (default /etc/gantry/gantry.toml)"},
    {"origin", 0, kBool, "Show the file and line that set each value"}};

} // namespace

std::span<const Command> engine_commands() {
    static const Command kCommands[] = {
        {"version", "", "[OPTIONS]", "Show the version information of client and engine", kFormatFlags, 0, 0,
         version_command},
        {"info", "system info", "[OPTIONS]", "Display system-wide information", kFormatFlags, 0, 0,
         info_command},
        {"events", "system events", "[OPTIONS]", "Get real time events from the server", kEventsFlags, 0, 0,
         events_command},
        {"plugin ls", "plugin list", "[OPTIONS]",
         "List the plugins found, with the reason when one is not usable", kPluginLsFlags, 0, 0, plugin_ls},
        {"plugin inspect", "", "[OPTIONS] FILE|NAME", "Show a plugin's abilities and options", kFormatFlags,
         1, 1, plugin_inspect},
        {"plugin check", "", "[OPTIONS] FILE.so", "Judge a driver with the conformance kit",
         kPluginCheckFlags, 1, 1, plugin_check},
        {"config check", "", "[OPTIONS] [FILE]", "Check the configuration", kConfigFlags, 0, 1, config_check},
        {"config show", "", "[OPTIONS] [FILE]", "Show the effective configuration", kConfigShowFlags, 0, 1,
         config_show},
        {"config docs", "", "[OPTIONS]", "Print a commented configuration with all options", kConfigFlags, 0,
         0, config_docs_command},
        {"config import-docker",
         "",
         "FILE",
         "Turn Docker's daemon.json into gantry.toml",
         {},
         1,
         1,
         config_import},
        {"doctor", "system doctor", "[OPTIONS]",
         "Check what this machine offers an engine, and say how to get what is missing", kDoctorFlags, 0, 0,
         doctor_command},
        {"system check", "", "[OPTIONS]", "Compare database, disk and kernel, and mend what differs",
         kCheckFlags, 0, 0, check_command},
        {"system migrate", "", "[OPTIONS] --storage NAME",
         "Move all images and stopped containers to another storage driver", kMigrateFlags, 0, 0,
         migrate_command},
    };
    return kCommands;
}

} // namespace gantry::cli
