#!/bin/sh
# Real servers with their data beside this file, started as their own packages start them: servers.sh mariadb|postgres|nginx
# As root MariaDB and nginx change to a user of their own, and give it what it needs.
set -e
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
user=daemon
[ "$(id -u)" = 0 ] || user=$(id -un)

case $1 in
mariadb)
  data=$here/maria
  mkdir "$data"
  small="--innodb-buffer-pool-size=8M --innodb-log-file-size=4M --skip-name-resolve"
  mariadb-install-db --no-defaults --user="$user" --datadir="$data" --auth-root-authentication-method=normal \
    --skip-test-db $small >"$data/install.log" 2>&1 || { cat "$data/install.log" >&2; exit 1; }
  printf '%s\n' "create user mesh identified by 'cloth';" 'grant all on *.* to mesh;' >"$here/maria.sql"
  exec mariadbd --no-defaults --user="$user" --datadir="$data" --socket="$data/socket" --pid-file="$data/pid" \
    --init-file="$here/maria.sql" $small
  ;;
postgres)
  data=$here/postgres
  initdb --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >"$here/initdb.log" 2>&1 ||
    { cat "$here/initdb.log" >&2; exit 1; }
  echo "host all all all trust" >>"$data/pg_hba.conf"
  exec postgres -D "$data" -p 5432 -h '*' -k "$data" -c fsync=off
  ;;
nginx)
  cat >"$here/nginx.conf" <<CONF
daemon off;
user $user;
pid $here/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path $here/nginx-body;
  proxy_temp_path $here/nginx-proxy;
  fastcgi_temp_path $here/nginx-fastcgi;
  uwsgi_temp_path $here/nginx-uwsgi;
  scgi_temp_path $here/nginx-scgi;
  server {
    listen 8080;
    listen [::]:8080;
    location / { return 200 "nginx serves \$uri\n"; }
  }
}
CONF
  exec nginx -p "$here" -c nginx.conf -e stderr
  ;;
esac
