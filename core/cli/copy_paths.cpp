#include "core/cli/copy_paths.h"

#include "core/cli/client.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace gantry::cli {

namespace {

bool ends_in_separator(const std::string &path) { return path.ends_with('/'); }
bool ends_in_dot(const std::string &path) { return base_name(path) == "."; }

std::string joined(const std::string &directory, const std::string &name) {
    return clean_lexically(directory + "/" + name);
}

std::string real_path(const std::string &path) {
    char resolved[PATH_MAX];
    if (!::realpath(path.c_str(), resolved)) throw Error::from_errno(errno, "resolve " + path);
    return resolved;
}

std::string read_link(const std::string &path) {
    std::string target(PATH_MAX, 0);
    const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
    if (size < 0) throw Error::from_errno(errno, "read link " + path);
    target.resize(static_cast<size_t>(size));
    return target;
}

} // namespace

std::pair<std::string, std::string> split_copy_argument(const std::string &argument) {
    const size_t colon = argument.find(':');
    if (argument.starts_with('/') || argument.starts_with('.') || colon == std::string::npos)
        return {"", argument};
    return {argument.substr(0, colon), argument.substr(colon + 1)};
}

std::string clean_lexically(const std::string &path) {
    const bool absolute = path.starts_with('/');
    std::vector<std::string> parts;
    for (size_t at = 0; at < path.size();) {
        const size_t end = std::min(path.find('/', at), path.size());
        const std::string part = path.substr(at, end - at);
        at = end + 1;
        if (part.empty() || part == ".") continue;
        if (part == ".." && !parts.empty() && parts.back() != "..")
            parts.pop_back();
        else if (part != ".." || !absolute)
            parts.push_back(part);
    }
    std::string out;
    for (const auto &part : parts)
        out += (out.empty() && !absolute ? "" : "/") + part;
    return out.empty() ? (absolute ? "/" : ".") : out;
}

std::string base_name(const std::string &given) {
    std::string path = given;
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    if (path.empty()) return ".";
    return path == "/" ? path : path.substr(path.rfind('/') + 1);
}

bool asserts_directory(const std::string &path) { return ends_in_separator(path) || ends_in_dot(path); }

std::string keep_trailing(std::string cleaned, const std::string &original) {
    if (!ends_in_dot(cleaned) && ends_in_dot(original)) cleaned += ends_in_separator(cleaned) ? "." : "/.";
    if (!ends_in_separator(cleaned) && ends_in_separator(original)) cleaned += "/";
    return cleaned;
}

std::pair<std::string, std::string> split_entry(const std::string &path) {
    const std::string cleaned = clean_lexically(path);
    if (ends_in_dot(path)) return {cleaned, "."};
    const size_t slash = cleaned.rfind('/');
    if (slash == std::string::npos) return {".", cleaned};
    return {slash == 0 ? "/" : cleaned.substr(0, slash), base_name(cleaned)};
}

CopyPlan plan_copy(const CopyEnd &source, const CopyEnd &destination) {
    if (destination.exists && destination.is_directory) return {destination.path, "", ""};
    if (destination.exists && source.is_directory) throw ExitWith(1, "cannot copy directory");
    if (!destination.exists && !source.is_directory && asserts_directory(destination.path))
        throw ExitWith(1, "no such directory");
    const auto [directory, name] = split_entry(destination.path);
    return {directory, source.rebase.empty() ? split_entry(source.path).second : source.rebase, name};
}

std::string rename_entry(const CopyPlan &plan, const std::string &given) {
    if (plan.from.empty()) return given;
    std::string name = given;
    while (name.size() > 1 && name.ends_with('/'))
        name.pop_back();
    if (name == plan.from) return plan.to;
    if (plan.from == "/") return plan.to + (name.starts_with('/') ? "" : "/") + name;
    if (name.starts_with(plan.from + "/")) return plan.to + name.substr(plan.from.size());
    return given;
}

std::pair<std::string, std::string> rebase_name(const std::string &path, std::string resolved) {
    resolved = keep_trailing(std::move(resolved), path);
    return {resolved, base_name(path) != base_name(resolved) ? base_name(path) : ""};
}

CopyEnd local_source(const std::string &path, bool follow) {
    CopyEnd end;
    if (follow) {
        std::tie(end.path, end.rebase) = rebase_name(path, real_path(path));
    } else {
        const size_t slash = path.rfind('/');
        const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
        const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        const std::string real = real_path(folder);
        end.path = (real == "/" ? "" : real) + "/" + name;
        if (ends_in_separator(path) && base_name(path) != base_name(end.path)) end.rebase = base_name(path);
    }
    struct stat st {};
    if (::lstat(end.path.c_str(), &st) != 0) throw Error::from_errno(errno, "stat " + path);
    end.exists = true;
    end.is_directory = S_ISDIR(st.st_mode);
    return end;
}

CopyEnd local_destination(const std::string &given) {
    CopyEnd end{given, false, false, ""};
    struct stat st {};
    for (int links = 0; ::lstat(end.path.c_str(), &st) == 0; ++links) {
        if (!S_ISLNK(st.st_mode)) {
            end.exists = true;
            end.is_directory = S_ISDIR(st.st_mode);
            return end;
        }
        if (links > 10)
            throw Error(ErrorClass::kInvalidArgument, "resolve " + given + ": too many symbolic links");
        const std::string target = read_link(end.path);
        end.path = target.starts_with('/') ? target : joined(split_entry(end.path).first, target);
    }
    if (errno != ENOENT) throw Error::from_errno(errno, "stat " + end.path);
    const std::string parent = split_entry(end.path).first;
    if (::stat(parent.c_str(), &st) != 0) throw Error::from_errno(errno, "stat " + parent);
    if (!S_ISDIR(st.st_mode)) throw Error::from_errno(ENOTDIR, "copy to " + end.path);
    return end;
}

} // namespace gantry::cli
