// save, load and image copy. Archives and layouts are read and written here and travel as tar streams: files
// get the user's rights and owner, and the daemon opens no path that a client names.
#include "core/cli/command.h"
#include "core/cli/layout.h"
#include "core/cli/registry_auth.h"
#include "core/cli/transfer_files.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

int save_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string output = flags.get("output"), format = flags.get("format", "docker-archive"),
                      compress = flags.get("compress");
    const bool directory = format == "oci-dir";
    if (!directory && format != "docker-archive" && format != "oci-archive")
        throw ExitWith(125, "unknown format " + format + ": docker-archive, oci-archive or oci-dir");
    if (directory && output.empty()) throw ExitWith(125, "--format oci-dir needs -o DIRECTORY");
    if (directory && !compress.empty())
        throw ExitWith(125, "--compress is for archives: a layout's layers stay as they are");
    if (output.empty() && ::isatty(1))
        throw ExitWith(1, "cowardly refusing to save to a terminal. Use the -o flag or redirect");
    std::string path = "/images/get?format=" + std::string(directory ? "oci-archive" : format);
    if (!compress.empty()) path += "&compress=" + url_encode(compress);
    for (const std::string &name : invocation.args)
        path += "&names=" + url_encode(name);
    HttpConnection body = invocation.client.open_stream({.target = path});
    if (directory)
        receive_layout(body, output);
    else if (output.empty())
        pour(body, 1, "standard output");
    else
        pour_into_path(body, output);
    return 0;
}

HttpConnection send_archive(Client &client, const std::string &path,
                            std::vector<std::pair<std::string, std::string>> headers, int file) {
    headers.emplace_back("Content-Type", "application/x-tar");
    HttpConnection connection = client.connect();
    connection.send_stream(
        {.method = "POST", .target = client.versioned(path), .headers = std::move(headers)}, file);
    HttpHead head = connection.read_head();
    if (head.status >= 400) throw_api_error(connection, head);
    return connection;
}

UniqueFd open_input(const std::string &path) {
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file) throw Error::from_errno(errno, "open " + path);
    return file;
}

int load_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string input = flags.get("input");
    if (input.empty() && ::isatty(0)) throw ExitWith(1, "requested load from stdin, but stdin is empty");
    const bool quiet = flags.is_set("quiet") || !::isatty(1);
    std::string path = std::string("/images/load?quiet=") + (quiet ? "1" : "0");
    if (flags.has("platform")) path += "&platform=" + url_encode(flags.get("platform"));
    const UniqueFd file = input.empty() ? UniqueFd() : open_input(input);
    HttpConnection answer = send_archive(invocation.client, path, {}, input.empty() ? 0 : file.get());
    follow_stream(answer, false, 1);
    return 0;
}

// image copy

struct Place {
    enum Kind { kDaemon, kFile, kDirectory } kind = kDaemon;
    std::string spec; // for the API
    std::string path; // of the file or directory
};

Place parse_place(const std::string &text) {
    const auto local = [&](std::string_view transport, Place::Kind kind, const char *api) {
        // PATH[:TAG]; a docker-archive's reference has colons of its own.
        const std::string rest = text.substr(transport.size());
        const size_t colon = rest.find(':');
        Place out{kind, api, rest.substr(0, colon)};
        if (colon != rest.npos) out.spec += rest.substr(colon + 1);
        if (out.path.empty()) throw ExitWith(125, text + " names no file");
        return out;
    };
    if (text.starts_with("oci-archive:")) return local("oci-archive:", Place::kFile, "oci-archive:");
    if (text.starts_with("docker-archive:")) return local("docker-archive:", Place::kFile, "docker-archive:");
    if (text.starts_with("oci:")) return local("oci:", Place::kDirectory, "oci-archive:");
    if (text.starts_with("gantry:") || text.starts_with("docker://")) return {Place::kDaemon, text, ""};
    return {Place::kDaemon, "docker://" + text, ""};
}

/// What was given, else what is stored for the registry of `place`.
void add_credential(std::vector<std::pair<std::string, std::string>> &headers, const char *header,
                    const std::string &given, const Place &place) {
    if (!place.spec.starts_with("docker://")) {
        if (!given.empty()) throw ExitWith(125, "credentials are for registries, not for " + place.spec);
        return;
    }
    const std::string server = registry_of(place.spec.substr(std::string_view("docker://").size()));
    if (given.empty()) {
        headers.emplace_back(header, registry_auth_header(server));
        return;
    }
    const size_t colon = given.find(':');
    if (colon == given.npos) throw ExitWith(125, "credentials are USER:PASSWORD");
    const json::object login{{"username", given.substr(0, colon)},
                             {"password", given.substr(colon + 1)},
                             {"serveraddress", server}};
    headers.emplace_back(header, encode_base64(json::serialize(login), true));
}

void report(const json::value &aux) {
    const int64_t skipped = number_at(aux, "Skipped");
    print_line(text_at(aux, "Digest"));
    if (skipped > 0) write_all(2, std::to_string(skipped) + " blobs were there already\n", "standard error");
}

int copy_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const Place from = parse_place(invocation.args[0]), to = parse_place(invocation.args[1]);
    std::string path = "/gantry/v1/images/copy?src=" + url_encode(from.spec) + "&dst=" + url_encode(to.spec);
    if (flags.is_set("all")) path += "&all=1";
    for (const std::string &platform : flags.list("platform"))
        path += "&platform=" + url_encode(platform);
    std::vector<std::pair<std::string, std::string>> headers;
    add_credential(headers, "X-Registry-Auth", flags.get("src-creds"), from);
    add_credential(headers, "X-Registry-Auth-Destination", flags.get("dest-creds"), to);

    std::optional<HttpConnection> answer;
    if (from.kind == Place::kFile) {
        answer = send_archive(invocation.client, path, headers, open_input(from.path).get());
    } else if (from.kind == Place::kDirectory) {
        send_layout(from.path,
                    [&](int pipe) { answer = send_archive(invocation.client, path, headers, pipe); });
    } else {
        HttpRequest request{.method = "POST", .target = path, .headers = headers};
        if (to.kind == Place::kDirectory) {
            json::array have;
            for (const std::string &digest : layout_blobs(to.path))
                have.emplace_back(digest);
            request.body = json::serialize(json::object{{"Have", std::move(have)}});
            request.has_body = true;
            request.headers.emplace_back("Content-Type", "application/json");
        }
        answer = invocation.client.open_stream(std::move(request));
    }
    if (to.kind == Place::kDaemon)
        follow_stream(*answer, flags.is_set("quiet"), 2, report);
    else if (to.kind == Place::kFile)
        pour_into_path(*answer, to.path);
    else
        print_line(receive_layout(*answer, to.path));
    return 0;
}

constexpr Flag kSaveFlags[] = {
    {"compress", 0, kString, "Compress the archive: gzip or zstd"},
    {"format", 0, kString, "docker-archive (with an OCI layout in it), oci-archive or oci-dir"},
    {"output", 'o', kString, "Write to a file, instead of STDOUT"}};
constexpr Flag kLoadFlags[] = {{"input", 'i', kString, "Read from tar archive file, instead of STDIN"},
                               {"platform", 0, kString, "Of an image for several platforms, load this one's"},
                               {"quiet", 'q', kBool, "Suppress the load output"}};
constexpr Flag kCopyFlags[] = {{"all", 'a', kBool, "Every platform of the image, its index as it is"},
                               {"dest-creds", 0, kString, "USER:PASSWORD for the destination's registry"},
                               {"platform", 0, kList, "Only this platform (may be repeated)"},
                               {"quiet", 'q', kBool, "Suppress progress"},
                               {"src-creds", 0, kString, "USER:PASSWORD for the source's registry"}};

} // namespace

std::span<const Command> archive_commands() {
    static const Command kCommands[] = {
        {"save", "image save", "[OPTIONS] IMAGE [IMAGE...]",
         "Save one or more images to a tar archive (streamed to STDOUT by default)", kSaveFlags, 1, -1,
         save_command},
        {"load", "image load", "[OPTIONS]", "Load an image from a tar archive or STDIN", kLoadFlags, 0, 0,
         load_command},
        {"image copy", "", "[OPTIONS] SOURCE DESTINATION",
         "Copy an image between registries, archives, layouts and the local store", kCopyFlags, 2, 2,
         copy_command},
    };
    return kCommands;
}

} // namespace gantry::cli
