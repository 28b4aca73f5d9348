// The commands that hold streams: run, create, start, attach, exec, logs, wait.
//
// Order of run (any other loses output or the exit code): create, attach, wait, start. Wait's head is
// awaited before start, so that the daemon watches the container before it can end.
#include "core/cli/command.h"
#include "core/cli/container_flags.h"
#include "core/cli/format.h"
#include "core/cli/stream.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <ctime>
#include <fcntl.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

std::vector<Flag> run_flags_with(std::initializer_list<Flag> more) {
    std::vector<Flag> all(container_flags().begin(), container_flags().end());
    all.insert(all.end(), more);
    return all;
}

std::span<const Flag> run_flags() {
    static const std::vector<Flag> kAll =
        run_flags_with({{"detach", 'd', kBool, "Run container in background and print container ID"},
                        {"detach-keys", 0, kString, "Override the key sequence for detaching a container"},
                        {"sig-proxy", 0, kBool, "Proxy received signals to the process (default true)"}});
    return kAll;
}

bool contains(const std::string &text, const char *part) { return text.find(part) != std::string::npos; }

// run's exit code of a start that failed, from the daemon's words as Docker does it.
int start_exit_code(const std::string &message) {
    if (contains(message, "executable file not found") || contains(message, "no such file or directory") ||
        contains(message, "system cannot find the file specified"))
        return 127;
    if (contains(message, "permission denied") || contains(message, "not a directory") ||
        contains(message, "is a directory"))
        return 126;
    return 125;
}

[[noreturn]] void fail_run(const std::string &message, int code, const char *command) {
    throw ExitWith(code, "gantry: Error response from daemon: " + message + "\n\nRun 'gantry " + command +
                             " --help' for more information");
}

std::string create_container(Invocation &invocation, const std::string &image,
                             const std::vector<std::string> &command, bool detached) {
    const ParsedFlags &flags = invocation.flags;
    json::object body = create_body(flags, image, command, detached);
    std::string pull = flags.get("pull", "missing"), platform = flags.get("platform"),
                cidfile = flags.get("cidfile");
    if (pull != "missing" && pull != "always" && pull != "never")
        throw FlagError{"invalid pull option: '" + pull +
                        "': must be one of \"always\", \"missing\" or \"never\""};
    UniqueFd cid;
    if (!cidfile.empty()) {
        cid.reset(::open(cidfile.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
        if (!cid)
            throw ExitWith(
                125,
                "gantry: container ID file found, make sure the other container isn't running or delete " +
                    cidfile);
    }
    std::string path = "/containers/create", separator = "?";
    for (auto [key, value] :
         {std::pair<const char *, std::string>{"name", flags.get("name")}, {"platform", platform}})
        if (!value.empty()) path += std::exchange(separator, "&") + key + "=" + url_encode(value);
    if (pull == "always") pull_image(invocation.client, image, platform, flags.is_set("quiet"), 2);
    json::value created;
    try {
        created = invocation.client.post(path, body);
    } catch (const ApiError &error) {
        if (error.status != 404 || pull != "missing" || !contains(error.what(), "mage")) {
            if (!cidfile.empty()) ::unlink(cidfile.c_str());
            throw;
        }
        if (!flags.is_set("quiet")) {
            auto [name, tag] = split_reference(image);
            print_error("Unable to find image '" + (tag.empty() ? name + ":latest" : image) + "' locally");
        }
        pull_image(invocation.client, image, platform, flags.is_set("quiet"), 2);
        created = invocation.client.post(path, body);
    }
    for (const json::value &warning : array_of(at(created, "Warnings")))
        if (warning.is_string()) print_error("WARNING: " + std::string(warning.get_string()));
    std::string id = text_at(created, "Id");
    if (id.empty()) throw Error(ErrorClass::kDataLoss, "create container: the daemon's answer has no Id");
    if (cid) write_all(cid.get(), id, cidfile);
    return id;
}

HttpConnection hijack(Client &client, const std::string &path, const json::value *body = nullptr) {
    HttpRequest request{.method = "POST", .target = path, .upgrade = true};
    request.headers.emplace_back("Content-Type", body ? "application/json" : "text/plain");
    if (body) {
        request.body = json::serialize(*body);
        request.has_body = true;
    }
    HttpHead head;
    HttpConnection connection = client.open_stream(request, &head);
    if (head.status != 101)
        throw Error(ErrorClass::kDataLoss,
                    "unable to upgrade to tcp, received " + std::to_string(head.status));
    return connection;
}

void resize_with(StreamSession &session, Client &client, const std::string &path) {
    session.resize = [&client, path](unsigned rows, unsigned columns) {
        try {
            client.post(path + "/resize?h=" + std::to_string(rows) + "&w=" + std::to_string(columns));
            return true;
        } catch (const std::exception &) {
            return false;
        }
    };
}

void forward_with(StreamSession &session, Client &client, const std::string &id) {
    session.forward = [&client, id](int signal) {
        try {
            client.post("/containers/" + id + "/kill?signal=" + signal_name(signal));
        } catch (const ApiError &) {
            // ended just now, or not yet started: neither is the user's concern
        }
    };
}

int exit_code_of_wait(HttpConnection &wait) {
    boost::system::error_code error;
    json::value answer = json::parse(wait.read_body(1u << 20), error);
    if (error) throw Error(ErrorClass::kDataLoss, "wait for the container: bad answer of the daemon");
    if (std::string message = text_at(at(answer, "Error"), "Message"); !message.empty()) {
        print_error("Error waiting for container: " + message);
        return 125;
    }
    return static_cast<int>(number_at(answer, "StatusCode"));
}

std::string attach_query(const StreamSession &session, const std::string &detach_keys) {
    std::string query = "?stream=1";
    if (session.send_stdin) query += "&stdin=1";
    if (session.print_stdout) query += "&stdout=1";
    if (session.print_stderr) query += "&stderr=1";
    if (!detach_keys.empty()) query += "&detachKeys=" + url_encode(detach_keys);
    return query;
}

void require_terminal(bool tty, bool interactive) {
    if (tty && interactive && !isatty(0)) throw ExitWith(1, "the input device is not a TTY");
}

int run_container(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    Client &client = invocation.client;
    bool detached = flags.is_set("detach"), tty = flags.is_set("tty");
    std::vector<std::string> command(invocation.args.begin() + 1, invocation.args.end());
    if (!detached) require_terminal(tty, flags.is_set("interactive"));
    std::string id;
    try {
        id = create_container(invocation, invocation.args[0], command, detached);
    } catch (const ApiError &error) {
        fail_run(error.what(), 125, "run");
    } catch (const ExitWith &error) {
        throw ExitWith(125, error.what());
    }
    const std::string container = "/containers/" + id;
    if (detached) {
        try {
            client.post(container + "/start");
        } catch (const ApiError &error) {
            print_line(id);
            fail_run(error.what(), start_exit_code(error.what()), "run");
        }
        print_line(id);
        return 0;
    }

    StreamSession session;
    const auto &attach = flags.list("attach");
    auto attached = [&](const char *name) {
        for (const std::string &entry : attach)
            if (strcasecmp(entry.c_str(), name) == 0) return true;
        return attach.empty();
    };
    session.tty = tty;
    session.send_stdin = flags.is_set("interactive") && attached("stdin");
    session.print_stdout = attached("stdout");
    session.print_stderr = attached("stderr");
    session.detach_keys = flags.get("detach-keys", session.detach_keys);
    bool proxy = !tty && (!flags.has("sig-proxy") || flags.is_set("sig-proxy"));
    SignalReader signals(proxy);
    session.signals = &signals;
    if (proxy) forward_with(session, client, id);
    resize_with(session, client, container);

    HttpConnection stream =
        hijack(client, container + "/attach" + attach_query(session, flags.get("detach-keys")));
    HttpConnection wait = client.open_stream(
        {.method = "POST",
         .target = container + "/wait?condition=" + (flags.is_set("rm") ? "removed" : "next-exit")});
    try {
        client.post(container + "/start");
    } catch (const ApiError &error) {
        std::string message = error.what();
        // With --rm the daemon removes it; that must be over before we end.
        if (flags.is_set("rm")) {
            try {
                wait.read_body(1u << 20);
            } catch (const Error &) {
            }
        }
        fail_run(message, start_exit_code(message), "run");
    }
    session.connection = &stream;
    session.wait = &wait;
    StreamEnd end;
    {
        std::optional<RawTerminal> raw;
        if (tty && session.send_stdin) raw.emplace(0);
        end = run_stream(session);
    }
    if (end == StreamEnd::kDetached) {
        print_error("read escape sequence");
        return 0;
    }
    return exit_code_of_wait(wait);
}

int create_command(Invocation &invocation) {
    std::vector<std::string> command(invocation.args.begin() + 1, invocation.args.end());
    try {
        print_line(create_container(invocation, invocation.args[0], command, false));
    } catch (const ApiError &error) {
        throw ExitWith(1, "Error response from daemon: " + std::string(error.what()));
    }
    return 0;
}

// attach and start -a: the streams of an existing container. `start`: started between wait and streaming.
int attach_to(Invocation &invocation, const std::string &name, bool start, bool with_stdin) {
    Client &client = invocation.client;
    const ParsedFlags &flags = invocation.flags;
    json::value info = client.get("/containers/" + url_encode(name) + "/json");
    const json::value &state = at(info, "State"), &config = at(info, "Config");
    if (!start) {
        if (!bool_at(state, "Running"))
            throw ExitWith(1, "You cannot attach to a stopped container, start it first");
        if (bool_at(state, "Paused"))
            throw ExitWith(1, "You cannot attach to a paused container, unpause it first");
        if (bool_at(state, "Restarting"))
            throw ExitWith(1, "You cannot attach to a restarting container, wait until it is running");
    }
    std::string id = text_at(info, "Id"), container = "/containers/" + id;
    StreamSession session;
    session.tty = bool_at(config, "Tty");
    session.send_stdin = with_stdin && bool_at(config, "OpenStdin");
    session.detach_keys = flags.get("detach-keys", session.detach_keys);
    if (session.send_stdin) require_terminal(session.tty, true);
    bool proxy = !session.tty && (!flags.has("sig-proxy") || flags.is_set("sig-proxy"));
    SignalReader signals(proxy);
    session.signals = &signals;
    if (proxy) forward_with(session, client, id);
    resize_with(session, client, container);
    bool removed = bool_at(at(info, "HostConfig"), "AutoRemove");
    HttpConnection stream =
        hijack(client, container + "/attach" + attach_query(session, flags.get("detach-keys")));
    std::string condition = start ? (removed ? "?condition=removed" : "?condition=next-exit") : "";
    HttpConnection wait = client.open_stream({.method = "POST", .target = container + "/wait" + condition});
    if (start) client.post(container + "/start");
    session.connection = &stream;
    session.wait = &wait;
    StreamEnd end;
    {
        std::optional<RawTerminal> raw;
        if (session.tty && session.send_stdin) raw.emplace(0);
        if (session.tty && !start) { // a change of size makes full-screen programs draw themselves again
            auto [rows, columns] = terminal_size(0);
            if (rows > 0) session.resize(rows + 1, columns + 1);
        }
        end = run_stream(session);
    }
    if (end == StreamEnd::kDetached) {
        print_error("read escape sequence");
        return start ? 0 : 1;
    }
    return exit_code_of_wait(wait);
}

int attach_command(Invocation &invocation) {
    return attach_to(invocation, invocation.args[0], false, !invocation.flags.is_set("no-stdin"));
}

int start_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    if (flags.is_set("attach") || flags.is_set("interactive")) {
        if (invocation.args.size() != 1)
            throw ExitWith(1, "you cannot start and attach multiple containers at once");
        return attach_to(invocation, invocation.args[0], true, flags.is_set("interactive"));
    }
    int code = for_each_argument(invocation.args, [&](const std::string &name) {
        invocation.client.post("/containers/" + url_encode(name) + "/start");
        print_line(name);
    });
    if (code != 0) print_error("failed to start containers");
    return code;
}

int exec_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    Client &client = invocation.client;
    bool tty = flags.is_set("tty"), detached = flags.is_set("detach"),
         interactive = flags.is_set("interactive");
    if (!detached) require_terminal(tty, interactive);
    json::array command, env;
    for (size_t i = 1; i < invocation.args.size(); ++i)
        command.emplace_back(invocation.args[i]);
    auto add_env = [&](const std::string &entry) {
        if (entry.find('=') != std::string::npos)
            env.emplace_back(entry);
        else if (const char *value = getenv(entry.c_str()))
            env.emplace_back(entry + "=" + value);
    };
    for (const std::string &file : flags.list("env-file"))
        for (const std::string &entry : read_key_values(file, true))
            add_env(entry);
    for (const std::string &entry : flags.list("env"))
        add_env(entry);
    json::object body{{"AttachStdin", interactive && !detached},
                      {"AttachStdout", !detached},
                      {"AttachStderr", !detached},
                      {"Tty", tty},
                      {"Detach", detached},
                      {"Privileged", flags.is_set("privileged")},
                      {"User", flags.get("user")},
                      {"WorkingDir", flags.get("workdir")},
                      {"Env", env},
                      {"Cmd", command}};
    if (flags.has("detach-keys")) body["DetachKeys"] = flags.get("detach-keys");
    json::object start{{"Detach", detached}, {"Tty", tty}};
    if (auto [rows, columns] = terminal_size(0); tty && rows > 0)
        body["ConsoleSize"] = start["ConsoleSize"] = json::array{rows, columns};
    std::string exec =
        text_at(client.post("/containers/" + url_encode(invocation.args[0]) + "/exec", body), "Id");
    if (exec.empty()) throw Error(ErrorClass::kDataLoss, "create exec: the daemon's answer has no Id");
    if (detached) {
        client.post("/exec/" + exec + "/start", start);
        return 0;
    }
    StreamSession session;
    session.tty = tty;
    session.send_stdin = interactive;
    session.detach_keys = flags.get("detach-keys", session.detach_keys);
    SignalReader signals(false);
    session.signals = &signals;
    resize_with(session, client, "/exec/" + exec);
    json::value start_value(start);
    HttpConnection stream = hijack(client, "/exec/" + exec + "/start", &start_value);
    session.connection = &stream;
    StreamEnd end;
    {
        std::optional<RawTerminal> raw;
        if (tty && interactive) raw.emplace(0);
        end = run_stream(session);
    }
    if (end == StreamEnd::kDetached) {
        print_error("read escape sequence");
        return 1;
    }
    return static_cast<int>(number_at(client.get("/exec/" + exec + "/json"), "ExitCode"));
}

int logs_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    Client &client = invocation.client;
    std::string name = url_encode(invocation.args[0]);
    bool tty = bool_at(at(client.get("/containers/" + name + "/json"), "Config"), "Tty");
    std::string path = "/containers/" + name + "/logs?stdout=1&stderr=1";
    if (flags.is_set("follow")) path += "&follow=1";
    if (flags.is_set("timestamps")) path += "&timestamps=1";
    if (flags.is_set("details")) path += "&details=1";
    path += "&tail=" + url_encode(flags.get("tail", "all"));
    for (const char *flag : {"since", "until"})
        if (flags.has(flag))
            path += std::string("&") + flag + "=" + url_encode(to_timestamp(flags.get(flag), time(nullptr)));
    HttpConnection stream = client.open_stream({.target = path});
    Demultiplexer demultiplexer(
        [](int which, std::string_view bytes) { write_all(which == 2 ? 2 : 1, bytes, "output"); });
    char buffer[32u << 10];
    while (size_t count = stream.read_some(buffer, sizeof buffer)) {
        if (tty)
            write_all(1, {buffer, count}, "output");
        else
            demultiplexer.feed({buffer, count});
    }
    return 0;
}

int wait_command(Invocation &invocation) {
    return for_each_argument(invocation.args, [&](const std::string &name) {
        HttpConnection wait = invocation.client.open_stream(
            {.method = "POST", .target = "/containers/" + url_encode(name) + "/wait"});
        print_line(std::to_string(exit_code_of_wait(wait)));
    });
}

constexpr Flag kAttachFlags[] = {
    {"detach-keys", 0, kString, "Override the key sequence for detaching a container"},
    {"no-stdin", 0, kBool, "Do not attach STDIN"},
    {"sig-proxy", 0, kBool, "Proxy all received signals to the process (default true)"}};
constexpr Flag kStartFlags[] = {
    {"attach", 'a', kBool, "Attach STDOUT/STDERR and forward signals"},
    {"detach-keys", 0, kString, "Override the key sequence for detaching a container"},
    {"interactive", 'i', kBool, "Attach container's STDIN"}};
constexpr Flag kExecFlags[] = {
    {"detach", 'd', kBool, "Detached mode: run command in the background"},
    {"detach-keys", 0, kString, "Override the key sequence for detaching a container"},
    {"env", 'e', kList, "Set environment variables"},
    {"env-file", 0, kList, "Read in a file of environment variables"},
    {"interactive", 'i', kBool, "Keep STDIN open even if not attached"},
    {"privileged", 0, kBool, "Give extended privileges to the command"},
    {"tty", 't', kBool, "Allocate a pseudo-TTY"},
    {"user", 'u', kString, "Username or UID (format: \"<name|uid>[:<group|gid>]\")"},
    {"workdir", 'w', kString, "Working directory inside the container"}};
constexpr Flag kLogsFlags[] = {
    {"details", 0, kBool, "Show extra details provided to logs"},
    {"follow", 'f', kBool, "Follow log output"},
    {"since", 0, kString, "Show logs since timestamp or relative (e.g. \"42m\")"},
    {"tail", 'n', kString, "Number of lines to show from the end of the logs (default \"all\")"},
    {"timestamps", 't', kBool, "Show timestamps"},
    {"until", 0, kString, "Show logs before a timestamp or relative (e.g. \"42m\")"}};

} // namespace

std::span<const Command> run_commands() {
    static const Command kCommands[] = {
        {"run", "container run", "[OPTIONS] IMAGE [COMMAND] [ARG...]",
         "Create and run a new container from an image", run_flags(), 1, -1, run_container, true},
        {"create", "container create", "[OPTIONS] IMAGE [COMMAND] [ARG...]", "Create a new container",
         container_flags(), 1, -1, create_command, true},
        {"exec", "container exec", "[OPTIONS] CONTAINER COMMAND [ARG...]",
         "Execute a command in a running container", kExecFlags, 2, -1, exec_command, true},
        {"attach", "container attach", "[OPTIONS] CONTAINER",
         "Attach local standard input, output, and error streams to a running container", kAttachFlags, 1, 1,
         attach_command},
        {"start", "container start", "[OPTIONS] CONTAINER [CONTAINER...]",
         "Start one or more stopped containers", kStartFlags, 1, -1, start_command},
        {"logs", "container logs", "[OPTIONS] CONTAINER", "Fetch the logs of a container", kLogsFlags, 1, 1,
         logs_command},
        {"wait",
         "container wait",
         "CONTAINER [CONTAINER...]",
         "Block until one or more containers stop, then print their exit codes",
         {},
         1,
         -1,
         wait_command},
    };
    return kCommands;
}

} // namespace gantry::cli
