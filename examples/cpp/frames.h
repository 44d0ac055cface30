// Raw frames in, raw labels out: what both examples share.
//
// A file of frames holds height * width * 3 bytes for each frame, RGB, one frame after the other. ffmpeg writes such files:
//   ffmpeg -i drive.mp4 -f rawvideo -pix_fmt rgb24 -s WIDTHxHEIGHT frames.rgb
// A file of labels holds height * width bytes for each frame: the class of each pixel.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

struct Arguments {
  std::string folder;  // of the exported model
  std::string input, output;
  int64_t height, width;
  int interval;  // frames from key frame to key frame
};

inline int64_t whole_number(const std::string& text, const std::string& what) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (end == text.c_str() || *end || value < 1) throw std::runtime_error(what + " " + text + ": expected 1 or more");
  return value;
}

inline Arguments read_arguments(int count, char** values) {
  if (count != 7) {
    throw std::runtime_error(std::string("usage: ") + values[0] + " EXPORTED FRAMES.rgb LABELS HEIGHT WIDTH INTERVAL");
  }
  return {values[1], values[2], values[3], whole_number(values[4], "height"), whole_number(values[5], "width"),
          static_cast<int>(whole_number(values[6], "interval"))};
}

// Calls `label(frame, is_key)` with each frame, and writes the labels that it returns. Returns the number of frames.
template <class Label>
int64_t label_file(const Arguments& arguments, Label label) {
  std::ifstream input(arguments.input, std::ios::binary);
  if (!input) throw std::runtime_error(arguments.input + ": cannot be read");
  std::ofstream output(arguments.output, std::ios::binary);
  std::vector<uint8_t> frame(arguments.height * arguments.width * 3);
  int64_t number = 0;
  while (input.read(reinterpret_cast<char*>(frame.data()), static_cast<std::streamsize>(frame.size()))) {
    const std::vector<uint8_t> labels = label(frame, number % arguments.interval == 0);
    output.write(reinterpret_cast<const char*>(labels.data()), static_cast<std::streamsize>(labels.size()));
    ++number;
  }
  if (input.gcount()) throw std::runtime_error(arguments.input + ": its end is no whole frame of this size");
  if (!output.flush()) throw std::runtime_error(arguments.output + ": cannot be written");
  return number;
}

// Runs a program: an error is one line, and exit code 2.
template <class Program>
int run(Program program) {
  try {
    program();
    return 0;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::cerr << "error: " << text.substr(0, text.find('\n')) << std::endl;
    return 2;
  }
}
