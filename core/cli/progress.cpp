// Pull progress: on a terminal one live line for each layer, redrawn in place; in a pipe plain lines.
//
// A redraw rewrites the whole block at most every 50 ms: a fast registry sends thousands of events a
// second, and writing each of them makes the terminal the bottleneck. When there are more layers than
// rows, finished ones are left out, for the cursor cannot go up beyond the screen. Ctrl-C needs no code
// of its own but the new line: the process ends, and with it the connection, and the daemon cancels.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/registry_auth.h"
#include "core/cli/stream.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <csignal>
#include <ctime>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

double now_seconds() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

/// "12MB from https://mirror.example.org, 3MB from https://registry.example.org"
std::string sources_text(const json::value &sources) {
    std::string out;
    for (const json::value &source : array_of(sources)) {
        const std::string endpoint = printable(text_at(source, "endpoint"));
        out += (out.empty() ? "" : ", ") + human_size(static_cast<double>(number_at(source, "bytes")), 4) +
               " from " + (endpoint.empty() ? "earlier attempts" : endpoint);
    }
    return out;
}

struct Line {
    std::string id, status, from;
    int64_t current = 0, total = 0;
    double since = 0; // first event with bytes in this state
    int64_t since_bytes = 0;
};

class ProgressView {
  public:
    explicit ProgressView(int fd) : fd_(fd), live_(isatty(fd)) {}

    void show(const json::value &event) {
        std::string id = text_at(event, "id"), status = printable(text_at(event, "status"));
        if (std::string stream = text_at(event, "stream"); !stream.empty()) return plain(stream);
        if (status.empty()) return;
        const json::value &detail = at(event, "progressDetail");
        int64_t current = number_at(detail, "current"), total = number_at(detail, "total");
        const std::string from = sources_text(at(event, "sources"));
        if (!live_) {
            if (current == 0 && total == 0)
                plain((id.empty() ? "" : printable(id) + ": ") +
                      (from.empty() ? status : "Downloaded " + from) + "\n");
            return;
        }
        if (id.empty() || status.starts_with("Pulling from")) {
            draw(true);
            drawn_ = 0;
            lines_.clear();
            return plain((id.empty() ? "" : printable(id) + ": ") + status + "\n");
        }
        auto line = std::find_if(lines_.begin(), lines_.end(), [&](const Line &l) { return l.id == id; });
        if (line == lines_.end()) line = lines_.insert(line, Line{id, "", "", 0, 0, 0, 0});
        if (!from.empty()) line->from = from;
        if (line->status != status) line->since = 0;
        line->status = status;
        line->current = current;
        line->total = total;
        if (line->since == 0 && current > 0) {
            line->since = now_seconds();
            line->since_bytes = current;
        }
        draw(false);
    }

    void finish() {
        if (live_) draw(true);
        drawn_ = 0;
        lines_.clear();
    }

  private:
    void plain(const std::string &text) { write_all(fd_, text, "output"); }

    static bool finished(const Line &line) {
        return line.status == "Pull complete" || line.status == "Already exists" || line.status == "Copied" ||
               line.status == "Pushed" || line.status == "Layer already exists" ||
               line.status.starts_with("Mounted from");
    }

    std::string render(const Line &line, unsigned columns) const {
        std::string text = printable(line.id) + ": " + line.status;
        if (line.current > 0) {
            std::string size = human_size(static_cast<double>(line.current), 4);
            if (line.total > 0) size += "/" + human_size(static_cast<double>(line.total), 4);
            double elapsed = line.since > 0 ? now_seconds() - line.since : 0;
            if (elapsed > 0.2 && line.current > line.since_bytes)
                size += "  " + human_size(static_cast<double>(line.current - line.since_bytes) / elapsed, 3) +
                        "/s";
            if (line.total > 0 && columns >= text.size() + size.size() + 20) {
                size_t width = std::min<size_t>(50, columns - text.size() - size.size() - 8);
                auto filled = static_cast<size_t>(
                    static_cast<double>(width) *
                    std::min(1.0, static_cast<double>(line.current) / static_cast<double>(line.total)));
                std::string bar(filled, '=');
                if (filled < width) bar += ">" + std::string(width - filled - 1, ' ');
                text += " [" + bar + "]";
            }
            text += "  " + size;
        }
        if (line.current == 0 && !line.from.empty()) text += "  " + line.from;
        if (text.size() >= columns) text.resize(columns - 1);
        if (colour_on(fd_) && finished(line)) text = "\x1b[32m" + text + "\x1b[0m";
        return text;
    }

    void draw(bool force) {
        double now = now_seconds();
        if (lines_.empty() || (!force && now - last_draw_ < 0.05)) return;
        last_draw_ = now;
        auto [rows, columns] = terminal_size(fd_);
        if (rows < 4) rows = 24;
        if (columns < 20) columns = 80;
        std::vector<const Line *> shown;
        bool all = lines_.size() + 1 < rows;
        for (const Line &line : lines_)
            if ((all || !finished(line)) && shown.size() + 2 < rows) shown.push_back(&line);
        std::string text;
        if (drawn_ > 0) text += "\x1b[" + std::to_string(drawn_) + "A";
        for (const Line *line : shown)
            text += "\r" + render(*line, columns) + "\x1b[K\n";
        text += "\x1b[J";
        drawn_ = shown.size();
        plain(text);
    }

    int fd_;
    bool live_;
    std::vector<Line> lines_;
    size_t drawn_ = 0;
    double last_draw_ = 0;
};

void on_interrupt(int) {
    if (isatty(2)) (void)!::write(2, "\n", 1);
    _exit(130);
}

} // namespace

std::pair<std::string, std::string> split_reference(const std::string &reference) {
    if (size_t at_sign = reference.find('@'); at_sign != std::string::npos)
        return {reference.substr(0, at_sign), reference.substr(at_sign + 1)};
    size_t colon = reference.rfind(':'), slash = reference.rfind('/');
    if (colon != std::string::npos && (slash == std::string::npos || colon > slash))
        return {reference.substr(0, colon), reference.substr(colon + 1)};
    return {reference, ""};
}

void pull_image(Client &client, const std::string &reference, const std::string &platform, bool quiet,
                int fd) {
    auto [name, tag] = split_reference(reference);
    std::string path =
        "/images/create?fromImage=" + url_encode(name) + "&tag=" + url_encode(tag.empty() ? "latest" : tag);
    if (!platform.empty()) path += "&platform=" + url_encode(platform);
    follow_progress(client, path, quiet, fd, {{"X-Registry-Auth", registry_auth_header(registry_of(name))}});
}

void follow_progress(Client &client, const std::string &path, bool quiet, int fd,
                     std::vector<std::pair<std::string, std::string>> headers) {
    struct sigaction action {
    }, old{};
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, &old);
    HttpConnection stream =
        client.open_stream({.method = "POST", .target = path, .headers = std::move(headers)});
    follow_stream(stream, quiet, fd);
    sigaction(SIGINT, &old, nullptr);
}

void follow_stream(HttpConnection &stream, bool quiet, int fd,
                   const std::function<void(const json::value &)> &result) {
    ProgressView view(fd);
    std::string line, failure;
    while (stream.read_line(line)) {
        boost::system::error_code error;
        json::value event = json::parse(line, error);
        if (error) continue;
        if (std::string message = text_at(event, "error"); !message.empty())
            failure = message;
        else if (std::string detail = text_at(at(event, "errorDetail"), "message"); !detail.empty())
            failure = detail;
        else if (const json::value &aux = at(event, "aux"); result && aux.is_object())
            result(aux);
        else if (!quiet)
            view.show(event);
    }
    view.finish();
    if (!failure.empty()) throw ExitWith(1, failure);
}

} // namespace gantry::cli
