// Commands on images.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <ctime>
#include <fcntl.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

// Names keep their slashes in the path: /images/library/alpine/json.
std::string image_path(const std::string &name) {
    std::string encoded = url_encode(name);
    for (auto [from, to] : {std::pair{"%2F", "/"}, {"%3A", ":"}, {"%40", "@"}})
        for (size_t found; (found = encoded.find(from)) != std::string::npos;)
            encoded.replace(found, 3, to);
    return "/images/" + encoded;
}

int pull_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string &reference = invocation.args[0];
    bool quiet = flags.is_set("quiet");
    auto [name, tag] = split_reference(reference);
    if (tag.empty() && !quiet) print_line("Using default tag: latest");
    pull_image(invocation.client, reference, flags.get("platform"), quiet, 1);
    std::string full =
        name + (reference.find('@') != std::string::npos ? "@" : ":") + (tag.empty() ? "latest" : tag);
    size_t slash = name.find('/');
    std::string host = name.substr(0, slash);
    if (slash == std::string::npos)
        full = "docker.io/library/" + full;
    else if (host.find_first_of(".:") == std::string::npos && host != "localhost")
        full = "docker.io/" + full;
    print_line(full);
    return 0;
}

int images_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    ParsedFlags filtered = flags;
    if (!invocation.args.empty()) filtered.add("filter", "reference=" + invocation.args[0]);
    bool full = flags.is_set("no-trunc"), digests = flags.is_set("digests");
    json::value list = invocation.client.get(std::string("/images/json?") +
                                             (flags.is_set("all") ? "all=1&" : "") + filter_query(filtered));
    int64_t now = time(nullptr);
    std::vector<json::object> rows;
    for (const json::value &image : array_of(list)) {
        std::string id = text_at(image, "Id");
        int64_t created = number_at(image, "Created");
        auto add = [&](const std::string &repository, const std::string &tag, const std::string &digest) {
            std::string size = human_size(static_cast<double>(number_at(image, "Size")));
            rows.push_back({{"Containers", "N/A"},
                            {"CreatedAt", format_utc(created)},
                            {"CreatedSince", created > 0 ? human_duration(now - created) + " ago" : "N/A"},
                            {"Digest", digest},
                            {"ID", full ? id : short_id(id)},
                            {"Repository", repository},
                            {"SharedSize", "N/A"},
                            {"Size", size},
                            {"Tag", tag},
                            {"UniqueSize", "N/A"},
                            {"VirtualSize", size}});
        };
        const json::array &tags = array_of(at(image, "RepoTags")),
                          &repo_digests = array_of(at(image, "RepoDigests"));
        auto digest_of = [&](const std::string &repository) {
            for (const json::value &entry : repo_digests)
                if (auto [name, digest] = split_reference(format_value(entry)); name == repository)
                    return digest;
            return std::string("<none>");
        };
        bool any = false;
        for (const json::value &entry : tags) {
            std::string text = format_value(entry);
            if (text == "<none>:<none>") continue;
            auto [repository, tag] = split_reference(text);
            add(repository, tag, digest_of(repository));
            any = true;
        }
        if (!any) {
            std::string repository = "<none>", digest = "<none>";
            if (!repo_digests.empty())
                std::tie(repository, digest) = split_reference(format_value(repo_digests[0]));
            add(repository, "<none>", digest);
        }
    }
    if (flags.is_set("quiet") && !flags.has("format")) {
        for (const json::object &row : rows)
            print_line(text_at(row, "ID"));
        return 0;
    }
    static const json::object kHeaders{{"Containers", "CONTAINERS"},
                                       {"CreatedAt", "CREATED AT"},
                                       {"CreatedSince", "CREATED"},
                                       {"Digest", "DIGEST"},
                                       {"ID", "IMAGE ID"},
                                       {"Repository", "REPOSITORY"},
                                       {"SharedSize", "SHARED SIZE"},
                                       {"Size", "SIZE"},
                                       {"Tag", "TAG"},
                                       {"UniqueSize", "UNIQUE SIZE"},
                                       {"VirtualSize", "SIZE"}};
    const char *table = digests
                            ? "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
                            : "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
    print_list(rows, {table, kHeaders}, flags.get("format"));
    return 0;
}

int tag_command(Invocation &invocation) {
    auto [name, tag] = split_reference(invocation.args[1]);
    invocation.client.post(image_path(invocation.args[0]) + "/tag?repo=" + url_encode(name) +
                           "&tag=" + url_encode(tag));
    return 0;
}

int rmi_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    bool force = flags.is_set("force");
    std::string query =
        std::string(force ? "?force=1" : "?force=0") + (flags.is_set("no-prune") ? "&noprune=1" : "");
    return for_each_argument(invocation.args, [&](const std::string &name) {
        try {
            json::value result =
                invocation.client.call({.method = "DELETE", .target = image_path(name) + query});
            for (const json::value &entry : array_of(result)) {
                if (std::string text = text_at(entry, "Untagged"); !text.empty())
                    print_line("Untagged: " + text);
                if (std::string text = text_at(entry, "Deleted"); !text.empty())
                    print_line("Deleted: " + text);
            }
        } catch (const ApiError &error) {
            if (!force || error.status != 404) throw;
            print_api_error(error);
        }
    });
}

int history_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    bool full = flags.is_set("no-trunc"), human = !flags.has("human") || flags.is_set("human");
    json::value list = invocation.client.get(image_path(invocation.args[0]) + "/history");
    std::vector<json::object> rows;
    int64_t now = time(nullptr);
    for (const json::value &entry : array_of(list)) {
        std::string id = text_at(entry, "Id"), created_by = text_at(entry, "CreatedBy");
        for (char &c : created_by)
            if (c == '\t') c = ' ';
        int64_t created = number_at(entry, "Created"), size = number_at(entry, "Size");
        rows.push_back(
            {{"Comment", text_at(entry, "Comment")},
             {"CreatedAt", format_utc(created)},
             {"CreatedBy", full ? created_by : ellipsis(created_by, 45)},
             {"CreatedSince",
              human ? (created > 0 ? human_duration(now - created) + " ago" : "N/A") : format_utc(created)},
             {"ID", full ? id : short_id(id)},
             {"Size", human ? human_size(static_cast<double>(size)) : std::to_string(size)}});
    }
    if (flags.is_set("quiet") && !flags.has("format")) {
        for (const json::object &row : rows)
            print_line(text_at(row, "ID"));
        return 0;
    }
    static const json::object kHeaders{{"Comment", "COMMENT"},
                                       {"CreatedAt", "CREATED AT"},
                                       {"CreatedBy", "CREATED BY"},
                                       {"CreatedSince", "CREATED"},
                                       {"ID", "IMAGE"},
                                       {"Size", "SIZE"}};
    print_list(rows, {"{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", kHeaders},
               flags.get("format"));
    return 0;
}

int import_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string &file = invocation.args[0];
    std::string path =
        "/images/create?fromSrc=" + url_encode(file.find("://") != std::string::npos ? file : "-");
    if (invocation.args.size() > 1) path += "&repo=" + url_encode(invocation.args[1]);
    if (flags.has("message")) path += "&message=" + url_encode(flags.get("message"));
    if (flags.has("platform")) path += "&platform=" + url_encode(flags.get("platform"));
    for (const std::string &change : flags.list("change"))
        path += "&changes=" + url_encode(change);
    UniqueFd opened;
    if (file != "-") {
        opened.reset(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
        if (!opened) throw Error::from_errno(errno, "open " + file);
    }
    HttpConnection connection = invocation.client.connect();
    connection.send_stream({.method = "POST",
                            .target = invocation.client.versioned(path),
                            .headers = {{"Content-Type", "application/x-tar"}}},
                           file == "-" ? 0 : opened.get());
    HttpHead head = connection.read_head();
    if (head.status >= 400) throw_api_error(connection, head);
    std::string line;
    while (connection.read_line(line)) {
        boost::system::error_code error;
        json::value event = json::parse(line, error);
        if (error) continue;
        if (std::string message = text_at(event, "error"); !message.empty()) throw ExitWith(1, message);
        if (std::string status = text_at(event, "status"); !status.empty()) print_line(status);
    }
    return 0;
}

constexpr Flag kPullFlags[] = {{"disable-content-trust", 0, kBool, "Skip image verification", nullptr, true},
                               {"platform", 0, kString, "Set platform if server is multi-platform capable"},
                               {"quiet", 'q', kBool, "Suppress verbose output"}};
constexpr Flag kImagesFlags[] = {
    {"all", 'a', kBool, "Show all images (default hides intermediate images)"},
    {"digests", 0, kBool, "Show digests"},
    {"filter", 'f', kList, "Filter output based on conditions provided", "filter"},
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"no-trunc", 0, kBool, "Don't truncate output"},
    {"quiet", 'q', kBool, "Only show image IDs"}};
constexpr Flag kRmiFlags[] = {{"force", 'f', kBool, "Force removal of the image"},
                              {"no-prune", 0, kBool, "Do not delete untagged parents"}};
constexpr Flag kHistoryFlags[] = {
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"human", 'H', kBool, "Print sizes and dates in human readable format (default true)"},
    {"no-trunc", 0, kBool, "Don't truncate output"},
    {"quiet", 'q', kBool, "Only show image IDs"}};
constexpr Flag kImportFlags[] = {
    {"change", 'c', kList, "Apply Dockerfile instruction to the created image"},
    {"message", 'm', kString, "Set commit message for imported image"},
    {"platform", 0, kString, "Set platform if server is multi-platform capable"}};

} // namespace

std::span<const Command> image_commands() {
    static const Command kCommands[] = {
        {"pull", "image pull", "[OPTIONS] NAME[:TAG|@DIGEST]", "Download an image from a registry",
         kPullFlags, 1, 1, pull_command},
        {"images", "image ls,image list", "[OPTIONS] [REPOSITORY[:TAG]]", "List images", kImagesFlags, 0, 1,
         images_command},
        {"tag",
         "image tag",
         "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
         "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
         {},
         2,
         2,
         tag_command},
        {"rmi", "image rm,image remove", "[OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", kRmiFlags,
         1, -1, rmi_command},
        {"history", "image history", "[OPTIONS] IMAGE", "Show the history of an image", kHistoryFlags, 1, 1,
         history_command},
        {"import", "image import", "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
         "Import the contents from a tarball to create a filesystem image", kImportFlags, 1, 2,
         import_command},
    };
    return kCommands;
}

} // namespace gantry::cli
