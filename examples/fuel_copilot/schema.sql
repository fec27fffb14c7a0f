-- The tables of the Fuel Copilot backend. generate.py runs this file before it fills them: what was there is lost.

DROP TABLE IF EXISTS audit_log;
DROP TABLE IF EXISTS service_history;
DROP TABLE IF EXISTS truck_components;
DROP TABLE IF EXISTS refuel_events;
DROP TABLE IF EXISTS dtc_events;
DROP TABLE IF EXISTS speeding_events;
DROP TABLE IF EXISTS truck_trips;
DROP TABLE IF EXISTS fuel_metrics;
DROP TABLE IF EXISTS truck_sensors_cache;
DROP TABLE IF EXISTS trucks;
DROP TABLE IF EXISTS ingest_status;

-- Telemetry arrives late and in bursts, so every time window ends at the last ingest and not at the server's clock.
CREATE TABLE ingest_status (
    id TINYINT NOT NULL PRIMARY KEY,
    last_ingest_utc DATETIME NOT NULL,
    source VARCHAR(40) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE trucks (
    truck_id VARCHAR(20) NOT NULL PRIMARY KEY,
    vin CHAR(17) NOT NULL,
    make VARCHAR(30) NOT NULL,
    model VARCHAR(30) NOT NULL,
    model_year SMALLINT NOT NULL,
    tank_capacity_gal DOUBLE NOT NULL,
    mpg_baseline DOUBLE NOT NULL,
    terminal VARCHAR(40) NOT NULL,
    status ENUM('ACTIVE', 'MAINTENANCE', 'PARKED') NOT NULL,
    UNIQUE KEY uq_vin (vin),
    KEY idx_terminal (terminal)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE truck_sensors_cache (
    truck_id VARCHAR(20) NOT NULL PRIMARY KEY,
    timestamp DATETIME NOT NULL,
    data_age_seconds INT NOT NULL,
    oil_pressure_psi DOUBLE NULL,
    oil_temp_f DOUBLE NULL,
    oil_level_pct DOUBLE NULL,
    coolant_temp_f DOUBLE NULL,
    coolant_level_pct DOUBLE NULL,
    def_level_pct DOUBLE NULL,
    def_temp_f DOUBLE NULL,
    fuel_level_pct DOUBLE NULL,
    fuel_temp_f DOUBLE NULL,
    rpm INT NULL,
    throttle_position_pct DOUBLE NULL,
    engine_load_pct DOUBLE NULL,
    intake_press_kpa DOUBLE NULL,
    intake_air_temp_f DOUBLE NULL,
    barometric_press_inhg DOUBLE NULL,
    ambient_temp_f DOUBLE NULL,
    voltage DOUBLE NULL,
    speed_mph DOUBLE NULL,
    odometer_mi DOUBLE NULL,
    engine_hours DOUBLE NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE fuel_metrics (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    timestamp_utc DATETIME NOT NULL,
    truck_id VARCHAR(20) NOT NULL,
    truck_status ENUM('MOVING', 'IDLE', 'STOPPED') NOT NULL,
    latitude DOUBLE NOT NULL,
    longitude DOUBLE NOT NULL,
    speed_mph DOUBLE NOT NULL,
    rpm INT NOT NULL,
    estimated_gallons DOUBLE NOT NULL,
    estimated_pct DOUBLE NOT NULL,
    sensor_pct DOUBLE NULL,
    drift_pct DOUBLE NULL,
    consumption_gph DOUBLE NOT NULL,
    mpg_current DOUBLE NULL,
    odometer_mi DOUBLE NOT NULL,
    engine_hours DOUBLE NOT NULL,
    engine_load_pct DOUBLE NOT NULL,
    coolant_temp_f DOUBLE NOT NULL,
    oil_pressure_psi DOUBLE NOT NULL,
    oil_temp_f DOUBLE NOT NULL,
    def_level_pct DOUBLE NOT NULL,
    battery_voltage DOUBLE NOT NULL,
    ambient_temp_f DOUBLE NOT NULL,
    KEY idx_truck_time (truck_id, timestamp_utc),
    KEY idx_time (timestamp_utc)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE truck_trips (
    trip_id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    truck_id VARCHAR(20) NOT NULL,
    driver_code VARCHAR(12) NOT NULL,
    start_time DATETIME NOT NULL,
    end_time DATETIME NOT NULL,
    distance_miles DOUBLE NOT NULL,
    avg_speed_mph DOUBLE NOT NULL,
    fuel_used_gal DOUBLE NOT NULL,
    idle_minutes INT NOT NULL,
    harsh_brake_count INT NOT NULL,
    harsh_accel_count INT NOT NULL,
    KEY idx_truck_start (truck_id, start_time),
    KEY idx_start (start_time)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE speeding_events (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    truck_id VARCHAR(20) NOT NULL,
    driver_code VARCHAR(12) NOT NULL,
    timestamp_utc DATETIME NOT NULL,
    duration_seconds INT NOT NULL,
    over_limit_mph DOUBLE NOT NULL,
    severity ENUM('MINOR', 'MODERATE', 'SEVERE') NOT NULL,
    KEY idx_truck_time (truck_id, timestamp_utc),
    KEY idx_time (timestamp_utc)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE dtc_events (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    timestamp_utc DATETIME NOT NULL,
    truck_id VARCHAR(20) NOT NULL,
    dtc_code VARCHAR(20) NOT NULL,
    severity ENUM('INFO', 'WARNING', 'CRITICAL') NOT NULL,
    system_name VARCHAR(30) NOT NULL,
    description VARCHAR(120) NOT NULL,
    resolved_at DATETIME NULL,
    KEY idx_truck_time (truck_id, timestamp_utc),
    KEY idx_severity (severity)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE refuel_events (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    truck_id VARCHAR(20) NOT NULL,
    timestamp_utc DATETIME NOT NULL,
    gallons_added DOUBLE NOT NULL,
    before_pct DOUBLE NOT NULL,
    after_pct DOUBLE NOT NULL,
    price_per_gallon DOUBLE NOT NULL,
    location VARCHAR(60) NOT NULL,
    KEY idx_truck_time (truck_id, timestamp_utc)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE truck_components (
    truck_id VARCHAR(20) NOT NULL,
    component VARCHAR(30) NOT NULL,
    service_interval_hours INT NOT NULL,
    last_service_hours DOUBLE NOT NULL,
    last_service_at DATETIME NOT NULL,
    health_score DOUBLE NOT NULL,
    PRIMARY KEY (truck_id, component)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE service_history (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    truck_id VARCHAR(20) NOT NULL,
    component VARCHAR(30) NOT NULL,
    service_type ENUM('INSPECTION', 'REPAIR', 'REPLACEMENT') NOT NULL,
    engine_hours DOUBLE NOT NULL,
    cost_usd DOUBLE NOT NULL,
    shop VARCHAR(40) NOT NULL,
    notes VARCHAR(200) NOT NULL,
    serviced_at DATETIME NOT NULL,
    KEY idx_truck_component (truck_id, component)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

CREATE TABLE audit_log (
    id INT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    truck_id VARCHAR(20) NOT NULL,
    action VARCHAR(40) NOT NULL,
    detail VARCHAR(200) NOT NULL,
    KEY idx_truck (truck_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
