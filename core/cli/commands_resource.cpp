// Volumes, networks, disk use, and inspect, which looks through all kinds of objects.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

void pretty(const json::value &value, std::string &out, size_t indent) {
    auto pad = [&](size_t depth) { out.append(depth * 4, ' '); };
    if (value.is_object() && !value.get_object().empty()) {
        out += "{\n";
        size_t left = value.get_object().size();
        for (const auto &pair : value.get_object()) {
            pad(indent + 1);
            out += json::serialize(json::value(pair.key())) + ": ";
            pretty(pair.value(), out, indent + 1);
            out += --left ? ",\n" : "\n";
        }
        pad(indent);
        out += "}";
    } else if (value.is_array() && !value.get_array().empty()) {
        out += "[\n";
        size_t left = value.get_array().size();
        for (const json::value &element : value.get_array()) {
            pad(indent + 1);
            pretty(element, out, indent + 1);
            out += --left ? ",\n" : "\n";
        }
        pad(indent);
        out += "]";
    } else if (value.is_double()) {
        out += format_value(value);
    } else {
        out += json::serialize(value);
    }
}

std::string encode_path(const std::string &name) {
    std::string encoded = url_encode(name);
    for (auto [from, to] : {std::pair{"%2F", "/"}, {"%3A", ":"}, {"%40", "@"}})
        for (size_t found; (found = encoded.find(from)) != std::string::npos;)
            encoded.replace(found, 3, to);
    return encoded;
}

struct Kind {
    const char *name, *prefix, *suffix;
};
constexpr Kind kKinds[] = {{"container", "/containers/", "/json"},
                           {"image", "/images/", "/json"},
                           {"network", "/networks/", ""},
                           {"volume", "/volumes/", ""}};

int inspect_kinds(Invocation &invocation, const std::string &only) {
    json::array found;
    int code = 0;
    std::vector<std::string> errors;
    for (const std::string &name : invocation.args) {
        bool hit = false;
        std::string failure = "Error: No such " + (only.empty() ? "object" : only) + ": " + name;
        for (const Kind &kind : kKinds) {
            if (!only.empty() && only != kind.name) continue;
            std::string path = kind.prefix + encode_path(name) + kind.suffix;
            if (invocation.flags.is_set("size") && std::string_view(kind.name) == "container")
                path += "?size=1";
            try {
                found.push_back(invocation.client.get(path));
                hit = true;
                break;
            } catch (const ApiError &error) {
                // A name that one kind does not even accept (400) may still be another kind's.
                if (error.status != 404 && error.status != 400) {
                    failure = "Error response from daemon: " + std::string(error.what());
                    break;
                }
                if (!only.empty()) failure = "Error response from daemon: " + std::string(error.what());
            }
        }
        if (!hit) {
            errors.push_back(failure);
            code = 1;
        }
    }
    std::string format = invocation.flags.get("format"), out;
    if (format == "json") format = "{{json .}}";
    if (format.empty()) {
        if (found.empty())
            out = "[]";
        else
            pretty(found, out, 0);
        out += "\n";
    } else {
        Template compiled(format);
        for (const json::value &value : found)
            out += compiled.execute(value) + "\n";
    }
    write_all(1, out, "standard output");
    for (const std::string &error : errors)
        print_error(error);
    return code;
}

int inspect_command(Invocation &invocation) {
    std::string type = invocation.flags.get("type");
    bool known = type.empty();
    for (const Kind &kind : kKinds)
        known = known || type == kind.name;
    if (!known) throw ExitWith(1, "\"" + type + "\" is not a valid value for --type");
    return inspect_kinds(invocation, type);
}
int inspect_container(Invocation &invocation) { return inspect_kinds(invocation, "container"); }
int inspect_image(Invocation &invocation) { return inspect_kinds(invocation, "image"); }
int inspect_network(Invocation &invocation) { return inspect_kinds(invocation, "network"); }
int inspect_volume(Invocation &invocation) { return inspect_kinds(invocation, "volume"); }

json::object key_values(const std::vector<std::string> &list) {
    json::object map;
    for (const std::string &entry : list) {
        size_t equal = entry.find('=');
        map[entry.substr(0, equal)] = equal == std::string::npos ? "" : entry.substr(equal + 1);
    }
    return map;
}

std::string labels_text(const json::value &labels) {
    std::string text;
    if (labels.is_object())
        for (const auto &pair : labels.get_object())
            text += (text.empty() ? "" : ",") + std::string(pair.key()) + "=" + format_value(pair.value());
    return text;
}

int volume_ls(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    json::value list = invocation.client.get("/volumes?" + filter_query(flags));
    std::vector<json::object> rows;
    for (const json::value &volume : array_of(at(list, "Volumes")))
        rows.push_back({{"Availability", "N/A"},
                        {"Driver", text_at(volume, "Driver")},
                        {"Group", "N/A"},
                        {"Labels", labels_text(at(volume, "Labels"))},
                        {"Links", "N/A"},
                        {"Mountpoint", text_at(volume, "Mountpoint")},
                        {"Name", text_at(volume, "Name")},
                        {"Scope", text_at(volume, "Scope")},
                        {"Size", "N/A"},
                        {"Status", "N/A"}});
    if (flags.is_set("quiet") && !flags.has("format")) {
        for (const json::object &row : rows)
            print_line(text_at(row, "Name"));
        return 0;
    }
    static const json::object kHeaders{{"Availability", "AVAILABILITY"},
                                       {"Driver", "DRIVER"},
                                       {"Group", "GROUP"},
                                       {"Labels", "LABELS"},
                                       {"Links", "LINKS"},
                                       {"Mountpoint", "MOUNTPOINT"},
                                       {"Name", "VOLUME NAME"},
                                       {"Scope", "SCOPE"},
                                       {"Size", "SIZE"},
                                       {"Status", "STATUS"}};
    print_list(rows, {"{{.Driver}}\t{{.Name}}", kHeaders}, flags.get("format"));
    return 0;
}

int volume_create(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    json::object body{{"Name", invocation.args.empty() ? flags.get("name") : invocation.args[0]},
                      {"Driver", flags.get("driver", "local")},
                      {"DriverOpts", key_values(flags.list("opt"))},
                      {"Labels", key_values(flags.list("label"))}};
    print_line(text_at(invocation.client.post("/volumes/create", body), "Name"));
    return 0;
}

int volume_rm(Invocation &invocation) {
    bool force = invocation.flags.is_set("force");
    return for_each_argument(invocation.args, [&](const std::string &name) {
        invocation.client.remove("/volumes/" + url_encode(name) + (force ? "?force=1" : ""));
        print_line(name);
    });
}

int network_ls(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    json::value list = invocation.client.get("/networks?" + filter_query(flags));
    std::vector<json::object> rows;
    for (const json::value &network : array_of(list)) {
        std::string id = text_at(network, "Id");
        rows.push_back({{"CreatedAt", text_at(network, "Created")},
                        {"Driver", text_at(network, "Driver")},
                        {"ID", flags.is_set("no-trunc") ? id : short_id(id)},
                        {"IPv6", bool_at(network, "EnableIPv6") ? "true" : "false"},
                        {"Internal", bool_at(network, "Internal") ? "true" : "false"},
                        {"Labels", labels_text(at(network, "Labels"))},
                        {"Name", text_at(network, "Name")},
                        {"Scope", text_at(network, "Scope")}});
    }
    if (flags.is_set("quiet") && !flags.has("format")) {
        for (const json::object &row : rows)
            print_line(text_at(row, "ID"));
        return 0;
    }
    static const json::object kHeaders{
        {"CreatedAt", "CREATED AT"}, {"Driver", "DRIVER"}, {"ID", "NETWORK ID"}, {"IPv6", "IPV6"},
        {"Internal", "INTERNAL"},    {"Labels", "LABELS"}, {"Name", "NAME"},     {"Scope", "SCOPE"}};
    print_list(rows, {"{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}", kHeaders}, flags.get("format"));
    return 0;
}

int system_df_verbose(const json::value &usage) {
    auto bytes = [](int64_t number) { return human_size(static_cast<double>(number), 4); };
    auto section = [](const char *title, const char *columns, const std::vector<json::object> &rows,
                      const json::object &headers) {
        print_line(title);
        print_line("");
        print_list(rows, {columns, headers}, "");
        print_line("");
    };
    std::vector<json::object> rows;
    for (const json::value &image : array_of(at(usage, "Images"))) {
        const json::array &tags = array_of(at(image, "RepoTags"));
        const std::string name = tags.empty() ? "<none>:<none>" : format_value(tags.front());
        const size_t colon = name.rfind(':');
        rows.push_back({{"Repository", name.substr(0, colon)},
                        {"Tag", name.substr(colon + 1)},
                        {"ID", short_id(text_at(image, "Id"))},
                        {"Size", bytes(number_at(image, "Size"))},
                        {"Containers", std::to_string(number_at(image, "Containers"))}});
    }
    section("Images space usage:", "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}\t{{.Containers}}", rows,
            {{"Repository", "REPOSITORY"},
             {"Tag", "TAG"},
             {"ID", "IMAGE ID"},
             {"Size", "SIZE"},
             {"Containers", "CONTAINERS"}});
    rows.clear();
    for (const json::value &container : array_of(at(usage, "Containers"))) {
        const json::array &names = array_of(at(container, "Names"));
        std::string name = names.empty() ? "" : format_value(names.front());
        if (name.starts_with('/')) name.erase(0, 1);
        rows.push_back({{"ID", short_id(text_at(container, "Id"))},
                        {"Image", text_at(container, "Image")},
                        {"Size", bytes(number_at(container, "SizeRw"))},
                        {"Status", text_at(container, "Status")},
                        {"Names", name}});
    }
    section("Containers space usage:", "{{.ID}}\t{{.Image}}\t{{.Size}}\t{{.Status}}\t{{.Names}}", rows,
            {{"ID", "CONTAINER ID"},
             {"Image", "IMAGE"},
             {"Size", "SIZE"},
             {"Status", "STATUS"},
             {"Names", "NAMES"}});
    rows.clear();
    for (const json::value &volume : array_of(at(usage, "Volumes"))) {
        const json::value &data = at(volume, "UsageData");
        rows.push_back({{"Name", text_at(volume, "Name")},
                        {"Links", std::to_string(number_at(data, "RefCount"))},
                        {"Size", bytes(std::max<int64_t>(0, number_at(data, "Size")))}});
    }
    section("Local Volumes space usage:", "{{.Name}}\t{{.Links}}\t{{.Size}}", rows,
            {{"Name", "VOLUME NAME"}, {"Links", "LINKS"}, {"Size", "SIZE"}});
    rows.clear();
    for (const json::value &part : array_of(at(usage, "PartialDownloads"))) {
        const int64_t total = number_at(part, "Total");
        rows.push_back({{"ID", short_id(text_at(part, "Digest"))},
                        {"Kind", text_at(part, "Kind")},
                        {"Present", bytes(number_at(part, "Present")) +
                                        (total > 0 ? " of " + bytes(total) : std::string())},
                        {"Size", bytes(number_at(part, "Size"))},
                        {"Changed", text_at(part, "Changed").substr(0, 19)},
                        {"InUse", bool_at(part, "InUse") ? "yes" : "no"}});
    }
    section("Partial downloads space usage:",
            "{{.ID}}\t{{.Kind}}\t{{.Present}}\t{{.Size}}\t{{.Changed}}\t{{.InUse}}", rows,
            {{"ID", "DIGEST"},
             {"Kind", "KIND"},
             {"Present", "PRESENT"},
             {"Size", "SIZE"},
             {"Changed", "CHANGED"},
             {"InUse", "IN USE"}});
    return 0;
}

int system_df(Invocation &invocation) {
    if (invocation.flags.is_set("verbose") && invocation.flags.has("format"))
        throw ExitWith(1, "the verbose and the format options conflict");
    json::value usage = invocation.client.get("/system/df");
    auto bytes = [](int64_t number) { return human_size(static_cast<double>(number), 4); };
    auto reclaim = [&](int64_t part, int64_t total) {
        return bytes(part) + (total > 0 ? " (" + std::to_string(part * 100 / total) + "%)" : "");
    };
    std::vector<json::object> rows;
    int64_t active = 0, size = number_at(usage, "LayersSize"), used = 0, count = 0, free_bytes = 0;
    for (const json::value &image : array_of(at(usage, "Images"))) {
        ++count;
        if (number_at(image, "Containers") > 0) {
            ++active;
            used += number_at(image, "Size") - std::max<int64_t>(0, number_at(image, "SharedSize"));
        }
    }
    auto add = [&](const char *type) {
        rows.push_back({{"Type", type},
                        {"TotalCount", std::to_string(count)},
                        {"Active", std::to_string(active)},
                        {"Size", bytes(size)},
                        {"Reclaimable", reclaim(free_bytes, size)}});
        active = size = count = free_bytes = 0;
    };
    free_bytes = std::max<int64_t>(0, size - used);
    add("Images");
    for (const json::value &container : array_of(at(usage, "Containers"))) {
        ++count;
        std::string state = text_at(container, "State");
        int64_t own = number_at(container, "SizeRw");
        size += own;
        if (state == "running" || state == "paused" || state == "restarting")
            ++active;
        else
            free_bytes += own;
    }
    add("Containers");
    for (const json::value &volume : array_of(at(usage, "Volumes"))) {
        ++count;
        const json::value &data = at(volume, "UsageData");
        int64_t own = std::max<int64_t>(0, number_at(data, "Size"));
        size += own;
        if (number_at(data, "RefCount") > 0)
            ++active;
        else
            free_bytes += own;
    }
    add("Local Volumes");
    for (const json::value &cache : array_of(at(usage, "BuildCache"))) {
        ++count;
        size += number_at(cache, "Size");
    }
    add("Build Cache");
    const json::array &partials = array_of(at(usage, "PartialDownloads"));
    for (const json::value &part : partials) {
        ++count;
        const int64_t own = number_at(part, "Size");
        size += own;
        bool_at(part, "InUse") ? void(++active) : void(free_bytes += own);
    }
    if (count > 0) add("Partial Downloads"); // Docker has none
    if (invocation.flags.is_set("verbose")) return system_df_verbose(usage);
    static const json::object kHeaders{{"Type", "TYPE"},
                                       {"TotalCount", "TOTAL"},
                                       {"Active", "ACTIVE"},
                                       {"Size", "SIZE"},
                                       {"Reclaimable", "RECLAIMABLE"}};
    print_list(rows, {"{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}", kHeaders},
               invocation.flags.get("format"));
    return 0;
}

int system_prune(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    bool all = flags.is_set("all"), volumes = flags.is_set("volumes");
    if (!flags.is_set("force")) {
        std::string warning = "WARNING! This will remove:\n  - all stopped containers\n  - all networks not "
                              "used by at least one container\n";
        if (volumes) warning += "  - all anonymous volumes not used by at least one container\n";
        warning += all ? "  - all images without at least one container associated to them\n"
                       : "  - all dangling images\n";
        warning += "  - all interrupted downloads\n";
        write_all(1, warning + "\nAre you sure you want to continue? [y/N] ", "output");
        char answer = 0;
        if (::read(0, &answer, 1) != 1 || (answer != 'y' && answer != 'Y')) return 0;
    }
    int64_t reclaimed = 0;
    auto prune = [&](const std::string &path, const char *key, const char *heading) {
        json::value result;
        try {
            result = invocation.client.post(path);
        } catch (const ApiError &error) {
            if (error.status != 404 && error.status != 501) throw; // a kind this engine does not have
            return;
        }
        reclaimed += number_at(result, "SpaceReclaimed");
        const json::array &deleted = array_of(at(result, key));
        if (!deleted.empty()) print_line(heading);
        for (const json::value &entry : deleted) {
            if (entry.is_string())
                print_line(format_value(entry));
            else if (std::string tag = text_at(entry, "Untagged"); !tag.empty())
                print_line("untagged: " + tag);
            else
                print_line("deleted: " + text_at(entry, "Deleted"));
        }
        if (!deleted.empty()) print_line("");
    };
    prune("/containers/prune", "ContainersDeleted", "Deleted Containers:");
    prune("/networks/prune", "NetworksDeleted", "Deleted Networks:");
    if (volumes) prune("/volumes/prune", "VolumesDeleted", "Deleted Volumes:");
    prune("/images/prune?filters=" +
              url_encode(all ? R"({"dangling":{"false":true}})" : R"({"dangling":{"true":true}})"),
          "ImagesDeleted", "Deleted Images:");
    print_line("Total reclaimed space: " + human_size(static_cast<double>(reclaimed)));
    return 0;
}

constexpr Flag kInspectFlags[] = {{"format", 'f', kString, "Format output using a Go template or 'json'"},
                                  {"size", 's', kBool, "Display total file sizes if the type is container"},
                                  {"type", 0, kString, "Return JSON for the specified type"}};
constexpr Flag kListFlags[] = {
    {"filter", 'f', kList, "Provide filter values (e.g. \"driver=bridge\")", "filter"},
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"no-trunc", 0, kBool, "Do not truncate the output"},
    {"quiet", 'q', kBool, "Only display names or IDs"}};
constexpr Flag kVolumeCreateFlags[] = {
    {"driver", 'd', kString, "Specify volume driver name (default \"local\")"},
    {"label", 0, kList, "Set metadata for a volume"},
    {"name", 0, kString, "Specify volume name", nullptr, true},
    {"opt", 'o', kList, "Set driver specific options", "map"}};
constexpr Flag kForceFlags[] = {{"force", 'f', kBool, "Force the removal of one or more volumes"}};
constexpr Flag kDfFlags[] = {
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"verbose", 'v', kBool, "Show detailed information on space usage"}};
constexpr Flag kSystemPruneFlags[] = {{"all", 'a', kBool, "Remove all unused images not just dangling ones"},
                                      {"force", 'f', kBool, "Do not prompt for confirmation"},
                                      {"volumes", 0, kBool, "Prune anonymous volumes"}};

} // namespace

std::span<const Command> resource_commands() {
    static const Command kCommands[] = {
        {"inspect", "", "[OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on objects",
         kInspectFlags, 1, -1, inspect_command},
        {"container inspect", "", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Display detailed information on one or more containers", kInspectFlags, 1, -1, inspect_container},
        {"image inspect", "", "[OPTIONS] IMAGE [IMAGE...]",
         "Display detailed information on one or more images", kInspectFlags, 1, -1, inspect_image},
        {"volume ls", "volume list", "[OPTIONS]", "List volumes", kListFlags, 0, 0, volume_ls},
        {"volume create", "", "[OPTIONS] [VOLUME]", "Create a volume", kVolumeCreateFlags, 0, 1,
         volume_create},
        {"volume rm", "volume remove", "[OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes",
         kForceFlags, 1, -1, volume_rm},
        {"volume inspect", "", "[OPTIONS] VOLUME [VOLUME...]",
         "Display detailed information on one or more volumes", kInspectFlags, 1, -1, inspect_volume},
        {"network ls", "network list", "[OPTIONS]", "List networks", kListFlags, 0, 0, network_ls},
        {"network inspect", "", "[OPTIONS] NETWORK [NETWORK...]",
         "Display detailed information on one or more networks", kInspectFlags, 1, -1, inspect_network},
        {"system df", "", "[OPTIONS]", "Show disk usage", kDfFlags, 0, 0, system_df},
        {"system prune", "", "[OPTIONS]", "Remove unused data", kSystemPruneFlags, 0, 0, system_prune},
    };
    return kCommands;
}

} // namespace gantry::cli
