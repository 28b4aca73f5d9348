// Commands on containers without streams.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <ctime>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

std::string path_of(const std::string &name) { return "/containers/" + url_encode(name); }

// "0.0.0.0:8080->80/tcp, 99/tcp", consecutive ports joined to ranges.
std::string format_ports(const json::value &ports) {
    struct Port {
        std::string ip, type;
        int64_t container, host, count = 1;
    };
    std::vector<Port> list;
    for (const json::value &port : array_of(ports))
        list.push_back({text_at(port, "IP"), text_at(port, "Type"), number_at(port, "PrivatePort"),
                        number_at(port, "PublicPort")});
    std::sort(list.begin(), list.end(), [](const Port &a, const Port &b) {
        return std::tie(a.container, a.type, a.ip, a.host) < std::tie(b.container, b.type, b.ip, b.host);
    });
    std::vector<Port> merged;
    for (const Port &port : list) {
        auto before = std::find_if(merged.begin(), merged.end(), [&](const Port &m) {
            return m.ip == port.ip && m.type == port.type && m.container + m.count == port.container &&
                   (m.host ? m.host + m.count == port.host : port.host == 0);
        });
        if (before != merged.end())
            ++before->count;
        else
            merged.push_back(port);
    }
    std::string text;
    for (const Port &port : merged) {
        auto range = [&](int64_t first) {
            return std::to_string(first) +
                   (port.count > 1 ? "-" + std::to_string(first + port.count - 1) : "");
        };
        if (!text.empty()) text += ", ";
        if (port.host)
            text += (port.ip.find(':') != std::string::npos ? "[" + port.ip + "]" : port.ip) + ":" +
                    range(port.host) + "->";
        text += range(port.container) + "/" + port.type;
    }
    return text;
}

int ps_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    std::string query = "?";
    int64_t limit = flags.is_set("latest") ? 1 : flags.integer("last", -1);
    if (flags.is_set("all") || limit > 0) query += "all=1&";
    if (limit > 0) query += "limit=" + std::to_string(limit) + "&";
    if (flags.is_set("size")) query += "size=1&";
    json::value list = invocation.client.get("/containers/json" + query + filter_query(flags));
    bool full = flags.is_set("no-trunc");
    if (flags.is_set("quiet") && !flags.has("format")) {
        for (const json::value &entry : array_of(list))
            print_line(full ? text_at(entry, "Id") : short_id(text_at(entry, "Id")));
        return 0;
    }
    int64_t now = time(nullptr);
    std::vector<json::object> rows;
    for (const json::value &entry : array_of(list)) {
        std::string id = text_at(entry, "Id"), names, networks, mounts, labels,
                    image = text_at(entry, "Image");
        for (const json::value &name : array_of(at(entry, "Names"))) {
            std::string text = name.is_string() ? std::string(name.get_string()) : "";
            if (text.starts_with("/")) text.erase(0, 1);
            if (!full && text.find('/') != std::string::npos) continue; // a link's alias
            names += (names.empty() ? "" : ",") + text;
        }
        if (const json::value &map = at(at(entry, "NetworkSettings"), "Networks"); map.is_object())
            for (const auto &pair : map.get_object())
                networks += (networks.empty() ? "" : ",") + std::string(pair.key());
        for (const json::value &mount : array_of(at(entry, "Mounts"))) {
            std::string name = text_at(mount, "Name");
            if (name.empty()) name = text_at(mount, "Source");
            mounts += (mounts.empty() ? "" : ",") + (full ? name : ellipsis(name, 15));
        }
        if (const json::value &map = at(entry, "Labels"); map.is_object())
            for (const auto &pair : map.get_object())
                labels +=
                    (labels.empty() ? "" : ",") + std::string(pair.key()) + "=" + text_at(map, pair.key());
        if (image.starts_with("sha256:") && !full) image = short_id(image);
        std::string size = human_size(static_cast<double>(number_at(entry, "SizeRw")), 3);
        if (int64_t root = number_at(entry, "SizeRootFs"); root > 0)
            size += " (virtual " + human_size(static_cast<double>(root), 3) + ")";
        int64_t created = number_at(entry, "Created");
        std::string command = text_at(entry, "Command");
        rows.push_back({{"Command", "\"" + (full ? command : ellipsis(command, 20)) + "\""},
                        {"CreatedAt", format_utc(created)},
                        {"ID", full ? id : short_id(id)},
                        {"Image", image.empty() ? "<no image>" : image},
                        {"Labels", labels},
                        {"LocalVolumes", "0"},
                        {"Mounts", mounts},
                        {"Names", names},
                        {"Networks", networks},
                        {"Ports", format_ports(at(entry, "Ports"))},
                        {"RunningFor", human_duration(now - created) + " ago"},
                        {"Size", size},
                        {"State", text_at(entry, "State")},
                        {"Status", text_at(entry, "Status")}});
    }
    static const json::object kHeaders{
        {"Command", "COMMAND"}, {"CreatedAt", "CREATED AT"}, {"ID", "CONTAINER ID"},
        {"Image", "IMAGE"},     {"Labels", "LABELS"},        {"LocalVolumes", "LOCAL VOLUMES"},
        {"Mounts", "MOUNTS"},   {"Names", "NAMES"},          {"Networks", "NETWORKS"},
        {"Ports", "PORTS"},     {"RunningFor", "CREATED"},   {"Size", "SIZE"},
        {"State", "STATE"},     {"Status", "STATUS"}};
    std::string table =
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
    if (flags.is_set("size")) table += "\t{{.Size}}";
    print_list(rows, {table.c_str(), kHeaders}, flags.get("format"));
    return 0;
}

// stop and restart: -t seconds and -s signal.
int stop_like(Invocation &invocation, const std::string &verb) {
    const ParsedFlags &flags = invocation.flags;
    std::string query, separator = "?";
    if (flags.has("time")) query += std::exchange(separator, "&") + "t=" + flags.get("time");
    if (flags.has("timeout")) query += std::exchange(separator, "&") + "t=" + flags.get("timeout");
    if (flags.has("signal"))
        query += std::exchange(separator, "&") + "signal=" + url_encode(flags.get("signal"));
    return for_each_argument(invocation.args, [&](const std::string &name) {
        invocation.client.post(path_of(name) + "/" + verb + query);
        print_line(name);
    });
}
int stop_command(Invocation &invocation) { return stop_like(invocation, "stop"); }
int restart_command(Invocation &invocation) { return stop_like(invocation, "restart"); }

int simple(Invocation &invocation, const std::string &verb) {
    return for_each_argument(invocation.args, [&](const std::string &name) {
        invocation.client.post(path_of(name) + "/" + verb);
        print_line(name);
    });
}
int pause_command(Invocation &invocation) { return simple(invocation, "pause"); }
int unpause_command(Invocation &invocation) { return simple(invocation, "unpause"); }

int kill_command(Invocation &invocation) {
    return simple(invocation, "kill?signal=" + url_encode(invocation.flags.get("signal", "KILL")));
}

int rm_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    bool force = flags.is_set("force");
    std::string query = std::string("?v=") + (flags.is_set("volumes") ? "1" : "0") +
                        (force ? "&force=1" : "") + (flags.is_set("link") ? "&link=1" : "");
    return for_each_argument(invocation.args, [&](const std::string &name) {
        try {
            invocation.client.remove(path_of(name) + query);
        } catch (const ApiError &error) {
            if (!force || error.status != 404) throw;
            print_api_error(error); // rm -f of nothing is no failure
            return;
        }
        print_line(name);
    });
}

int rename_command(Invocation &invocation) {
    invocation.client.post(path_of(invocation.args[0]) + "/rename?name=" + url_encode(invocation.args[1]));
    return 0;
}

int port_command(Invocation &invocation) {
    json::value info = invocation.client.get(path_of(invocation.args[0]) + "/json");
    std::string wanted = invocation.args.size() > 1 ? invocation.args[1] : "";
    if (!wanted.empty() && wanted.find('/') == std::string::npos) wanted += "/tcp";
    const json::value &ports = at(at(info, "NetworkSettings"), "Ports");
    bool found = false;
    if (ports.is_object())
        for (const auto &pair : ports.get_object())
            for (const json::value &binding : array_of(pair.value())) {
                if (!wanted.empty() && wanted != std::string_view(pair.key())) continue;
                std::string ip = text_at(binding, "HostIp");
                if (ip.find(':') != std::string::npos) ip = "[" + ip + "]";
                found = true;
                print_line((wanted.empty() ? std::string(pair.key()) + " -> " : "") + ip + ":" +
                           text_at(binding, "HostPort"));
            }
    if (!wanted.empty() && !found)
        throw ExitWith(1, "Error: No public port '" + wanted + "' published for " + invocation.args[0]);
    return 0;
}

int top_command(Invocation &invocation) {
    std::string arguments;
    for (size_t i = 1; i < invocation.args.size(); ++i)
        arguments += (i > 1 ? " " : "") + invocation.args[i];
    json::value top = invocation.client.get(path_of(invocation.args[0]) + "/top" +
                                            (arguments.empty() ? "" : "?ps_args=" + url_encode(arguments)));
    std::vector<std::string> lines;
    auto add = [&](const json::value &row) {
        std::string line;
        for (const json::value &cell : array_of(row))
            line += (line.empty() ? "" : "\t") + format_value(cell);
        lines.push_back(line);
    };
    add(at(top, "Titles"));
    for (const json::value &process : array_of(at(top, "Processes")))
        add(process);
    write_all(1, align_columns(lines), "standard output");
    return 0;
}

int prune_command(Invocation &invocation) {
    if (!invocation.flags.is_set("force")) {
        write_all(
            1, "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ",
            "output");
        char answer = 0;
        if (::read(0, &answer, 1) != 1 || (answer != 'y' && answer != 'Y')) return 0;
    }
    json::value result = invocation.client.post("/containers/prune?" + filter_query(invocation.flags));
    const json::array &deleted = array_of(at(result, "ContainersDeleted"));
    if (!deleted.empty()) print_line("Deleted Containers:");
    for (const json::value &id : deleted)
        print_line(format_value(id));
    if (!deleted.empty()) print_line("");
    print_line("Total reclaimed space: " +
               human_size(static_cast<double>(number_at(result, "SpaceReclaimed"))));
    return 0;
}

constexpr Flag kPsFlags[] = {
    {"all", 'a', kBool, "Show all containers (default shows just running)"},
    {"filter", 'f', kList, "Filter output based on conditions provided", "filter"},
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"last", 'n', kInt, "Show n last created containers (includes all states) (default -1)"},
    {"latest", 'l', kBool, "Show the latest created container (includes all states)"},
    {"no-trunc", 0, kBool, "Don't truncate output"},
    {"quiet", 'q', kBool, "Only display container IDs"},
    {"size", 's', kBool, "Display total file sizes"}};
constexpr Flag kStopFlags[] = {
    {"signal", 's', kString, "Signal to send to the container"},
    {"time", 't', kInt, "Seconds to wait before killing the container"},
    {"timeout", 0, kInt, "Seconds to wait before killing the container", nullptr, true}};
constexpr Flag kKillFlags[] = {{"signal", 's', kString, "Signal to send to the container"}};
constexpr Flag kRmFlags[] = {
    {"force", 'f', kBool, "Force the removal of a running container (uses SIGKILL)"},
    {"link", 'l', kBool, "Remove the specified link"},
    {"volumes", 'v', kBool, "Remove anonymous volumes associated with the container"}};
constexpr Flag kPruneFlags[] = {
    {"filter", 0, kList, "Provide filter values (e.g. \"until=<timestamp>\")", "filter"},
    {"force", 'f', kBool, "Do not prompt for confirmation"}};

} // namespace

std::span<const Command> container_commands() {
    static const Command kCommands[] = {
        {"ps", "container ls,container list,container ps", "[OPTIONS]", "List containers", kPsFlags, 0, 0,
         ps_command},
        {"stop", "container stop", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Stop one or more running containers", kStopFlags, 1, -1, stop_command},
        {"restart", "container restart", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Restart one or more containers", kStopFlags, 1, -1, restart_command},
        {"kill", "container kill", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Kill one or more running containers", kKillFlags, 1, -1, kill_command},
        {"pause",
         "container pause",
         "CONTAINER [CONTAINER...]",
         "Pause all processes within one or more containers",
         {},
         1,
         -1,
         pause_command},
        {"unpause",
         "container unpause",
         "CONTAINER [CONTAINER...]",
         "Unpause all processes within one or more containers",
         {},
         1,
         -1,
         unpause_command},
        {"rm", "container rm,container remove", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Remove one or more containers", kRmFlags, 1, -1, rm_command},
        {"rename", "container rename", "CONTAINER NEW_NAME", "Rename a container", {}, 2, 2, rename_command},
        {"port",
         "container port",
         "CONTAINER [PRIVATE_PORT[/PROTO]]",
         "List port mappings or a specific mapping for the container",
         {},
         1,
         2,
         port_command},
        {"top",
         "container top",
         "CONTAINER [ps OPTIONS]",
         "Display the running processes of a container",
         {},
         1,
         -1,
         top_command,
         true},
        {"container prune", "", "[OPTIONS]", "Remove all stopped containers", kPruneFlags, 0, 0,
         prune_command},
    };
    return kCommands;
}

} // namespace gantry::cli
