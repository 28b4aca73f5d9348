// commit, diff, export and cp.
#include "core/cli/command.h"
#include "core/cli/copy_paths.h"
#include "core/cli/format.h"
#include "core/cli/transfer_files.h"
#include "core/layer/extract.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

std::string path_of(const std::string &name) { return "/containers/" + url_encode(name); }

int commit_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    std::string path = "/commit?container=" + url_encode(invocation.args[0]);
    if (invocation.args.size() > 1) path += "&repo=" + url_encode(invocation.args[1]);
    path += "&author=" + url_encode(flags.get("author")) + "&comment=" + url_encode(flags.get("message"));
    if (flags.has("pause") && !flags.is_set("pause")) path += "&pause=0";
    for (const std::string &change : flags.list("change"))
        path += "&changes=" + url_encode(change);
    print_line(text_at(invocation.client.post(path), "Id"));
    return 0;
}

int diff_command(Invocation &invocation) {
    const json::value changes = invocation.client.get(path_of(invocation.args[0]) + "/changes");
    for (const json::value &change : array_of(changes)) {
        const int64_t kind = number_at(change, "Kind");
        print_line(std::string(kind == 1 ? "A " : kind == 2 ? "D " : "C ") + text_at(change, "Path"));
    }
    return 0;
}

int export_command(Invocation &invocation) {
    const std::string output = invocation.flags.get("output");
    if (output.empty() && ::isatty(1))
        throw ExitWith(1, "cowardly refusing to save to a terminal. Use the -o flag or redirect");
    HttpConnection body = invocation.client.open_stream({.target = path_of(invocation.args[0]) + "/export"});
    if (output.empty())
        pour(body, 1, "standard output");
    else
        pour_into_path(body, output);
    return 0;
}

// cp

constexpr uint32_t kGoDirectory = 1u << 31, kGoSymlink = 1u << 27, kGoDevice = 1u << 26,
                   kGoIrregular = 1u << 19;

struct RemoteStat {
    uint32_t mode = 0;
    std::string link_target;
    bool is_directory() const { return mode & kGoDirectory; }
};

RemoteStat decode_stat(const HttpHead &head) {
    std::string text;
    uint32_t bits = 0;
    int have = 0;
    for (const char c : head.header("x-docker-container-path-stat")) {
        static const std::string_view kDigits =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const size_t digit = kDigits.find(c);
        if (digit == kDigits.npos) break;
        bits = bits << 6 | static_cast<uint32_t>(digit);
        if ((have += 6) >= 8) text += static_cast<char>(bits >> (have -= 8) & 255);
    }
    boost::system::error_code failed;
    const json::value value = json::parse(text, failed);
    if (failed)
        throw Error(ErrorClass::kDataLoss, "read answer of the daemon: bad X-Docker-Container-Path-Stat");
    const json::value &mode = at(value, "mode");
    RemoteStat stat;
    stat.mode = mode.is_uint64() ? static_cast<uint32_t>(mode.get_uint64())
                                 : static_cast<uint32_t>(number_at(value, "mode"));
    stat.link_target = text_at(value, "linkTarget");
    return stat;
}

std::string archive_path(const std::string &container, const std::string &path) {
    return path_of(container) + "/archive?path=" + url_encode(path.empty() ? "/" : path);
}

/// False when it is not there.
bool stat_remote(Client &client, const std::string &container, const std::string &path, RemoteStat &stat) {
    HttpConnection connection = client.connect();
    connection.send({.method = "HEAD", .target = client.versioned(archive_path(container, path))});
    const HttpHead head = connection.read_head(true);
    if (head.status >= 400) return false; // what is wrong is said by the call that follows
    stat = decode_stat(head);
    return true;
}

std::string follow_remote(const std::string &path, const RemoteStat &stat) {
    if (stat.link_target.starts_with('/')) return stat.link_target;
    return clean_lexically(split_entry(path).first + "/" + stat.link_target);
}

void report(const Invocation &invocation, uint64_t bytes, const std::string &where) {
    if (invocation.flags.is_set("quiet")) return;
    write_all(2, "Successfully copied " + human_size(static_cast<double>(bytes), 3) + " to " + where + "\n",
              "standard error");
}

int copy_from(Invocation &invocation, const std::string &container, std::string source,
              const std::string &target) {
    Client &client = invocation.client;
    CopyEnd destination;
    if (target != "-") {
        char *directory = target.starts_with('/') ? nullptr : ::getcwd(nullptr, 0);
        const std::string absolute =
            clean_lexically((directory ? std::string(directory) + "/" : "") + target);
        ::free(directory);
        destination = local_destination(keep_trailing(absolute, target));
        struct stat st {};
        if (::stat(destination.path.c_str(), &st) == 0 && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
            throw ExitWith(1,
                           "invalid output path: \"" + target + "\" must be a directory or a regular file");
    }
    std::string rebase;
    RemoteStat stat;
    if (invocation.flags.is_set("follow-link") && stat_remote(client, container, source, stat) &&
        (stat.mode & kGoSymlink))
        std::tie(source, rebase) = rebase_name(source, follow_remote(source, stat));

    HttpHead head;
    HttpConnection body = client.open_stream({.target = archive_path(container, source)}, &head);
    if (target == "-") {
        pour(body, 1, "standard output");
        return 0;
    }
    const CopyEnd from{source, true, decode_stat(head).is_directory(), rebase};
    // The archive carries the name of the path that was asked for, which is not the link's.
    const std::string carried = split_entry(source).second;
    CopyPlan plan = plan_copy({from.path, true, from.is_directory, ""}, destination);
    if (plan.from.empty() && !rebase.empty()) {
        plan.from = carried;
        plan.to = rebase;
    }
    const UniqueFd directory(::open(plan.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!directory) throw Error::from_errno(errno, "open " + plan.directory);
    uint64_t bytes = 0;
    ExtractRules rules;
    rules.keep_kinds = true;
    rules.set_owner = invocation.flags.is_set("archive") && ::geteuid() == 0;
    rules.devices = ::geteuid() == 0;
    rules.rename = [&](const std::string &name) { return rename_entry(plan, name); };
    extract_tar(
        [&](void *buffer, size_t size) {
            const size_t n = body.read_some(static_cast<char *>(buffer), size);
            bytes += n;
            return n;
        },
        directory.get(), rules);
    report(invocation, bytes, target);
    return 0;
}

/// The local tree as a tar, through a pipe to the connection.
void send_tree(HttpConnection &connection, const HttpRequest &request, const CopyEnd &source,
               const CopyPlan &plan, uint64_t &bytes) {
    const auto [folder, name] = split_entry(source.path);
    const UniqueFd directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory) throw Error::from_errno(errno, "open " + folder);
    std::string stored = source.rebase.empty() ? name : source.rebase;
    stored = rename_entry(plan, stored);
    TreeTarOptions options;
    options.notice = [](const std::string &note) { print_error(note); };
    pipe_tar(
        options,
        [&](TreeTar &tar) {
            if (!tar.add(directory.get(), name, stored, true))
                throw Error::from_errno(ENOENT, "open " + source.path);
        },
        [&](int reader) { connection.send_stream(request, reader); }, &bytes);
}

int copy_to(Invocation &invocation, const std::string &given, const std::string &container,
            const std::string &target) {
    Client &client = invocation.client;
    CopyEnd source, destination{target, false, false, ""};
    const bool from_stdin = given == "-";
    if (!from_stdin) {
        char *directory = given.starts_with('/') ? nullptr : ::getcwd(nullptr, 0);
        const std::string absolute = clean_lexically((directory ? std::string(directory) + "/" : "") + given);
        ::free(directory);
        source = local_source(keep_trailing(absolute, given), invocation.flags.is_set("follow-link"));
    }
    RemoteStat stat;
    bool found = stat_remote(client, container, target, stat);
    if (found && (stat.mode & kGoSymlink)) {
        destination.path = follow_remote(target, stat);
        stat = {};
        found = stat_remote(client, container, destination.path, stat);
    }
    if (stat.mode & (kGoDevice | kGoIrregular))
        throw ExitWith(1, "destination \"" + container + ":" + target +
                              "\" must be a directory or a regular file");
    destination.exists = found;
    destination.is_directory = found && stat.is_directory();

    CopyPlan plan;
    if (!from_stdin)
        plan = plan_copy(source, destination);
    else if (destination.is_directory)
        plan.directory = destination.path;
    else
        throw ExitWith(1, "destination \"" + container + ":" + target + "\" must be a directory");
    std::string path = archive_path(container, plan.directory) + "&noOverwriteDirNonDir=true";
    if (invocation.flags.is_set("archive")) path += "&copyUIDGID=true";
    const HttpRequest request{.method = "PUT",
                              .target = client.versioned(path),
                              .headers = {{"Content-Type", "application/x-tar"}}};
    HttpConnection connection = client.connect();
    uint64_t bytes = 0;
    if (from_stdin)
        connection.send_stream(request, 0);
    else
        send_tree(connection, request, source, plan, bytes);
    const HttpHead head = connection.read_head();
    if (head.status >= 400) throw_api_error(connection, head);
    if (!from_stdin) report(invocation, bytes, container + ":" + target);
    return 0;
}

int cp_command(Invocation &invocation) {
    const auto [from, source] = split_copy_argument(invocation.args[0]);
    const auto [to, target] = split_copy_argument(invocation.args[1]);
    if (!from.empty() && !to.empty()) throw ExitWith(1, "copying between containers is not supported");
    if (from.empty() && to.empty()) throw ExitWith(1, "must specify at least one container source");
    if (!from.empty()) return copy_from(invocation, from, source, target);
    return copy_to(invocation, source, to, target);
}

constexpr Flag kCommitFlags[] = {
    {"author", 'a', kString, "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")"},
    {"change", 'c', kList, "Apply Dockerfile instruction to the created image"},
    {"message", 'm', kString, "Commit message"},
    {"pause", 'p', kBool, "Pause container during commit (default true)"}};
constexpr Flag kExportFlags[] = {{"output", 'o', kString, "Write to a file, instead of STDOUT"}};
constexpr Flag kCopyFlags[] = {{"archive", 'a', kBool, "Archive mode (copy all uid/gid information)"},
                               {"follow-link", 'L', kBool, "Always follow symbol link in SRC_PATH"},
                               {"quiet", 'q', kBool, "Suppress progress output during copy"}};

} // namespace

std::span<const Command> copy_commands() {
    static const Command kCommands[] = {
        {"commit", "container commit", "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
         "Create a new image from a container's changes", kCommitFlags, 1, 2, commit_command},
        {"cp", "container cp",
         "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        gantry cp [OPTIONS] SRC_PATH|- "
         "CONTAINER:DEST_PATH",
         "Copy files/folders between a container and the local filesystem", kCopyFlags, 2, 2, cp_command},
        {"diff",
         "container diff",
         "CONTAINER",
         "Inspect changes to files or directories on a container's filesystem",
         {},
         1,
         1,
         diff_command},
        {"export", "container export", "[OPTIONS] CONTAINER",
         "Export a container's filesystem as a tar archive", kExportFlags, 1, 1, export_command},
    };
    return kCommands;
}

} // namespace gantry::cli
