# WEBrick, a thread per connection, and Net::HTTP. `server.rb KIND LEAF_PORT` prints its own port; KIND is webrick;
# puma; or handed: a thread that waits for all connections together and hands the readable ones to a pool.
require "net/http"
require "socket"
require "webrick"

KIND, LEAF = ARGV[0], Integer(ARGV[1])
IDLE = Queue.new # keep-alive connections that the requests share
PORTS = Queue.new # local ports that are used again and again
JOBS = Queue.new
LOCK = Mutex.new
STARTED = {}

def call(path)
  Net::HTTP.get(URI("http://127.0.0.1:#{LEAF}#{path}"))
end

def pooled(path)
  http = begin
    IDLE.pop(true)
  rescue ThreadError
    Net::HTTP.new("127.0.0.1", LEAF).tap { |new| new.keep_alive_timeout = 60 }.start
  end
  http.post(path, "x" * 100)
  IDLE << http
end

def free_port = TCPServer.open("127.0.0.1", 0) { |free| free.addr[1] }

# A connection from this local port, or from another one where somebody else has it by now.
def leave_from(port)
  socket = Socket.new(:INET, :STREAM)
  socket.setsockopt(:SOCKET, :REUSEADDR, true)
  socket.setsockopt(:SOCKET, :LINGER, [1, 0].pack("ii"))
  socket.bind(Addrinfo.tcp("127.0.0.1", port))
  socket.connect(Addrinfo.tcp("127.0.0.1", LEAF))
  [socket, port]
rescue Errno::EADDRINUSE, Errno::EADDRNOTAVAIL
  socket.close
  leave_from(free_port)
end

def same_port(path)
  socket, port = leave_from(PORTS.pop)
  socket.write("GET #{path} HTTP/1.1\r\nHost: leaf\r\n\r\n")
  socket.recv(65_536)
  socket.close
  PORTS << port
end

def once(name)
  LOCK.synchronize { STARTED[name] || (STARTED[name] = true) && yield }
end

def poll(path)
  loop { call(path); sleep 0.005 }
end

def pause = sleep(rand * 0.01)

PATTERNS = {
  "immediate" => ->(id) { call("/leaf?id=#{id}") },
  "delayed" => ->(id) { pause; call("/leaf?id=#{id}") },
  "sequential" => ->(id) { 3.times { pooled("/leaf?id=#{id}"); pause } },
  "pooled" => ->(id) { pause; pooled("/leaf?id=#{id}") },
  "reuse" => ->(id) { same_port("/leaf?id=#{id}") },
  "fanout" => ->(id) { Array.new(3) { Thread.new { call("/leaf?id=#{id}") } }.each(&:join) },
  "executor" => lambda { |id|
    done = Queue.new
    JOBS << -> { pooled("/leaf?id=#{id}"); done << true }
    done.pop
  },
  "timer" => ->(id) { Thread.new { pause; call("/leaf?id=#{id}") }.join },
  "after" => lambda { |id|
    pooled("/leaf?id=#{id}")
    -> { pause; pooled("/late?id=#{id}") }
  },
  "straggler" => lambda { |id|
    Thread.new { 3.times { pause; call("/late?id=#{id}") } }
    JOBS << -> { pause; pause; pooled("/late?id=#{id}") }
  },
  "lazy_poller" => lambda { |id|
    once("poller") { Thread.new { poll("/late?id=#{id}") } }
    call("/leaf?id=#{id}")
  },
}.freeze

# A servlet cannot do anything after its answer: the server's own loop can.
class Server < WEBrick::HTTPServer
  def service(request, response)
    response.body = "ok"
    return if request.path != "/work"

    request.body if request["content-length"]
    @later = PATTERNS.fetch(request.query_string[/pattern=(\w+)/, 1]).call(request.query_string[/id=(\d+)/, 1])
    Thread.current[:later] = @later if @later.respond_to?(:call)
  end

  def access_log(*)
    later = Thread.current[:later]
    Thread.current[:later] = nil
    later&.call
  end
end

def serve(client)
  head = +""
  head << client.readpartial(4096) until head.include?("\r\n\r\n")
  rest = head[/content-length: (\d+)/i, 1].to_i - head.split("\r\n\r\n", 2)[1].bytesize
  client.read(rest) if rest.positive?
  yield head
  client.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
end

# Waits for every connection at once; whoever of the pool is free serves the request that has come in.
def hand_over
  listener = TCPServer.new("127.0.0.1", 0)
  listener.listen(128)
  puts listener.addr[1]
  ready, idle, (wake, waker) = Queue.new, Queue.new, IO.pipe
  60.times do
    Thread.new do
      loop do
        client = ready.pop
        begin
          serve(client) { |head| PATTERNS.fetch(head[/pattern=(\w+)/, 1]).call(head[/id=(\d+)/, 1]) }
          idle << client
        rescue EOFError, SystemCallError
          client.close
        end
        waker.write("x")
      end
    end
  end
  watched = [listener, wake]
  loop do
    IO.select(watched)[0].each do |io|
      case io
      when listener then watched << listener.accept
      when wake
        wake.readpartial(64)
        watched << idle.pop(true) until idle.empty?
      else
        watched.delete(io)
        ready << io
      end
    end
  end
end

4.times { PORTS << free_port }
8.times { Thread.new { loop { JOBS.pop.call } } }
Thread.new { poll("/background") }
$stdout.sync = true
trap("TERM") { exit! }
case KIND
when "handed"
  hand_over
when "puma"
  require "puma"
  app = lambda do |request|
    request["rack.input"].read
    query = request["QUERY_STRING"]
    PATTERNS.fetch(query[/pattern=(\w+)/, 1]).call(query[/id=(\d+)/, 1])
    [200, { "Content-Length" => "2" }, ["ok"]]
  end
  server = Puma::Server.new(app, Puma::Events.strings, min_threads: 4, max_threads: 16)
  puts server.add_tcp_listener("127.0.0.1", 0).local_address.ip_port
  server.run.join
else
  server = Server.new(BindAddress: "127.0.0.1", Port: 0, MaxClients: 200, Logger: WEBrick::Log.new(File::NULL), AccessLog: [])
  puts server.listeners[0].addr[1]
  server.start
end
